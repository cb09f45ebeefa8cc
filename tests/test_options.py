"""The command line's parser."""

import pytest

from sublim_mech.__main__ import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run quick --ot x", "sublim-mech run: --ot is no option (did you mean --out?); "),
        ("score b s --trait owl --trained-sytem=x", "--trained-sytem is no option (did you mean "
         "--trained-system?). All that it takes: sublim-mech score --help"),
        # an abbreviation would be taken in silence, and mean another option in a later version
        ("score b s --trait owl --contro x", "--contro is no option (did you mean --control?)"),
        ("plan quick --wholly-other", "--wholly-other is no option. All"),
        ("plan quick extra", "sublim-mech plan: extra is more than is asked for"),
        # words behind -- are no options; nor are those of a command the whole's
        ("plan quick -- --ot", "sublim-mech plan: --ot is more than is asked for"),
        ("rnu quick --out x", "sublim-mech: argument COMMAND: invalid choice: 'rnu'"),
        ("score b s --trait owl --trained-context pirate", "--asked-system. All that it takes"),
        ("run quick --out x --workers two", "argument --workers: invalid int value: 'two'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_the_nearest_option(given, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(given.split())
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert said in err
    assert err.count("\n") == 1
