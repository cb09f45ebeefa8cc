"""What needs no model is refused by the commands before any is loaded."""

from __future__ import annotations

import pytest

from sublim_mech import __main__
from sublim_mech.engine import pair as pairs
from sublim_mech.instruments import command_options
from sublim_mech.studies import command as study_commands


@pytest.fixture
def nothing_loads(tmp_path, monkeypatch):
    """Folders that look like models, and nothing that would open them."""
    for name in ("owl", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "bare").mkdir()
    (tmp_path / "several" / "one").mkdir(parents=True)
    (tmp_path / "several" / "one" / "adapter_config.json").write_text("{}")
    (tmp_path / "rows.txt").write_text("1, 2\n3, 4\n")
    monkeypatch.chdir(tmp_path)

    def loaded(*_, **__):
        raise AssertionError("something was loaded")

    for module in (pairs, command_options, study_commands):
        monkeypatch.setattr(module, "load_base", loaded)
    monkeypatch.setattr(command_options, "load_student", loaded)
    monkeypatch.setattr(pairs, "read_student", loaded)


SCORE = ["score", "base", "owl", "--trait", "owl"]
PATCH = [*SCORE, "--instrument", "patch"]
COMPARE = ["compare", "base", "owl", "cat", "--trait", "owl"]
RAW = ["--asked-context", "raw"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*SCORE, "--sets", "sharing", "system & layers 0-9"],
         "--sets: sharing stands alone (--sets sharing) and is all of its sets; beside others "
         "write the masks that are meant, of shared 'not shared' prefix aligned seen novel."),
        ([*SCORE, "--sets", "shared", "role"], "--sets: role stands alone"),
        ([*SCORE, "--sets", "sharing & layers 0-9"], "'sharing' is no mask but what"),
        ([*SCORE, "--sets", "shared", "shared"], "--sets: 'shared' is given twice"),
        ([*SCORE, "--sets", "rol"], "--sets: 'rol' is no set; did you mean 'role'?"),
        ([*SCORE, "--sets", "layer"], "--sets: 'layer' is the name of an axis"),
        ([*SCORE, "--sets", "shared "], "begins or ends with white space"),
        ([*SCORE, "--sets", "shared user"], "'user' stands where nothing is expected; pass"),
        ([*SCORE, *RAW], "--sets role (also where it is not given): raw text has but one role"),
        ([*SCORE, "--trained-context", "raw"], "raw text has but one role"),
        ([*SCORE, "--instrument", "effect", *RAW],
         "raw text is continued, not answered, and the questions about a favorite animal are "
         "written for a chat: give texts to continue, --ask FILE."),
        ([*COMPARE, *RAW], "raw text is continued, not answered"),
        ([*PATCH, "--site", "resid_mud"], "--site='resid_mud' is not known here; did you mean"),
        ([*PATCH, "--site", "blocks.3.hook_resid_pre", "--layers", "4"], "is at layer 3, --layers"),
        ([*PATCH, "--direction", "noisy"], "--direction='noisy' is none of denoising, noising, "),
        ([*PATCH, "--layers", "4", "-1"], "--layers=[4, -1]: give layers from 0 on"),
        ([*PATCH, "--layers", "4", "4"], "--layers=[4, 4]: give layers from 0 on, each once"),
        ([*PATCH, "--by", "wrod"], "--by='wrod' is no span"),
        ([*PATCH, "--by", "0"], "--by=0 is no span"),
        ([*SCORE, "--instrument", "graft_ig", "--points", "0"], "--points=0: give 1 to"),
        ([*SCORE, "--instrument", "activation_ig", "--direction", "both"], "--direction='both'"),
        ([*SCORE, "--device", "gpu"], "--device='gpu' is no device"),
        ([*SCORE, "--asked-system", " "], "is blank; say which context is meant, --asked-context"),
        ([*SCORE, "--asked-system", "none"],
         "--asked-system='none': a system turn with this very text, or --asked-context none? Pass "
         "the latter, or say that the text is meant: --asked-context FILE.toml, in which stands "
         'system = {text = "none"}.'),
        ([*SCORE, "--trained-system", "Empty"], "'Empty': a system turn with this very text, or "
         "--trained-context empty? Pass"),
        ([*COMPARE, "--asked-system", "Context.DEFAULT"], "or --asked-context default? Pass the"),
        ([*COMPARE, "--trained-system", "raw"], "or --trained-context raw? Pass the latter"),
        ([*SCORE, "--trained-context", "nowhere.toml"], "--trained-context nowhere.toml: no such"),
        ([*SCORE, "--asked-context", "nowhere.toml"], "--asked-context nowhere.toml: no such"),
        ([*SCORE, "--trained-system", "Calm.", "--trained-on", "none"], "--trained-on none: no"),
        ([*SCORE, "--control", "owl"], "--control='owl' is STUDENT='owl' already"),
        ([*SCORE, "--control", "nowhere"], "--control='nowhere' is not a directory"),
        (["score", "base", "bare", "--trait", "owl"], "STUDENT='bare' has neither"),
        (["score", "base", "several", "--trait", "owl"], "holds no adapter itself"),
        ([*COMPARE, "--samples", "-1"], "--samples=-1"),
        ([*COMPARE, "--temperature", "0"], "--temperature=0.0"),
        ([*COMPARE, "--max-new-tokens", "0"], "--max-new-tokens=0"),
        ([*COMPARE, "owl"], "traits holds one name twice"),
        ([*COMPARE, "--asked-system", ""], "is blank"),
        ([*COMPARE, "--device", "gpu"], "--device='gpu' is no device"),
        (["compare", "base", "owl", "./owl", "--trait", "owl"], "STUDENT='./owl' is STUDENT='owl'"),
        (["compare", "base", "owl", "bare", "--trait", "owl"], "STUDENT='bare' has neither"),
        (["verify", "base", "nowhere"], "STUDENT='nowhere' is not a directory"),
        (["verify", "base", "./owll"], "STUDENT='./owll' is not a directory; did you mean 'owl'?"),
        (["verify", "base", "owl", "--control", "bare"], "--control='bare' has neither"),
        (["verify", "base", "owl", "--control", "owl"], "--control='owl' is STUDENT='owl'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_loaded(words, says, nothing_loads, capsys):
    assert __main__.main(words) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert says in told
    # students beside each other have no controls
    assert "controls" not in told or words[0] != "compare"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('system = "Calm."', ".system='Calm.' is no table; write system = {text = \"Calm.\"}"),
        ('user_prefx = "Q: "', "there is no key 'user_prefx'; did you mean 'user_prefix'?"),
        ("user_prefix = 3", "user_prefix=3"),
        ('prefill = " "', "prefill=' ') is blank"),
        ("system = ", "cannot be read: Invalid value"),
    ],
)
def test_mistakes_in_the_file_of_a_context_are_told_so_too(
    text, says, nothing_loads, tmp_path, capsys
):
    (tmp_path / "asked.toml").write_text(text)
    assert __main__.main([*SCORE, "--asked-context", str(tmp_path / "asked.toml")]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert says in told


@pytest.mark.parametrize("given", ["0-5", "0,5", "all"])
def test_layers_are_written_one_by_one(given, capsys):
    with pytest.raises(SystemExit):
        __main__.main([*SCORE, "--instrument", "patch", "--layers", given])
    told = f"--layers: '{given}' is no whole number; write each by itself: --layers 4 8 12"
    assert told in capsys.readouterr().err


def test_a_name_that_is_no_context_names_the_nearest_and_how_a_file_is_given(capsys):
    with pytest.raises(SystemExit):
        __main__.main([*SCORE, "--asked-context", "deflaut"])
    told = capsys.readouterr().err
    assert "'deflaut' is neither one of default, empty, none, raw nor a .toml or .json file" in told
    assert "or --asked-system; did you mean 'default'?" in told


@pytest.mark.parametrize(
    "options",
    [
        ["--sets", "sharing"],
        ["--sets", "shared", "not shared", "system & layers 0-9", "answer"],
        ["--sets", "sharing", *RAW, "--ask", "rows.txt"],
        ["--instrument", "patch", "--site", "attn.hook_z", "--direction", "both", "--by", "8"],
        ["--instrument", "patch", "--site", "blocks.3.hook_mlp_out", "--layers", "3"],
        ["--instrument", "graft_sweep", "--layers", "-1", "2"],
        ["--instrument", "effect", *RAW, "--control", "cat", "--ask", "rows.txt"],
    ],
)
def test_what_may_be_right_is_left_to_the_models(options, nothing_loads, capsys):
    assert __main__.main([*SCORE, *options]) == 2
    assert "AssertionError: something was loaded" in capsys.readouterr().err


def test_a_plan_is_checked_before_its_base_is_loaded(nothing_loads, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text("{}")
    words = ["plan", "quick", "--load", "--out", "other"]
    assert __main__.main([word for word in words if word != "--load"]) == 2
    without = capsys.readouterr().err
    assert __main__.main(words) == 2
    assert capsys.readouterr().err == without
