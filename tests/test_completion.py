"""Completion: scripts of shtab that the shells take."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from sublim_mech import completion
from sublim_mech.__main__ import main, parser


def test_without_shtab_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert 'pip install "sublim-mech[completion]"' in told[0]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_commands_options_and_choices_stand_in_the_script(shell, capsys):
    pytest.importorskip("shtab", reason='no shtab here: pip install "sublim-mech[completion]"')
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("score", "compare", "steal", "instrument", "graft_sweep", "bfloat16"):
        assert word in script, word
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    actions = [a for a in parser()._actions if hasattr(a, "complete")]
    assert not actions  # the parser is as it was


BASH = """
source /dev/stdin
COMP_WORDS=({words})
COMP_CWORD={last}
COMPREPLY=()
_shtab_sublim_mech
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sublim-mech", "sc"], {"score"}),
        (["sublim-mech", "run", "--st"], {"--steal"}),
        (["sublim-mech", "completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes(words, offered):
    pytest.importorskip("shtab", reason='no shtab here: pip install "sublim-mech[completion]"')
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    code = BASH.format(words=" ".join(words), last=len(words) - 1)
    script = completion.script(parser(), "bash")
    done = subprocess.run([bash, "-c", code], input=script, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered, done.stderr
