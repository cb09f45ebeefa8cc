"""Wrong names are refused with the nearest right ones."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import sublim_mech
from sublim_mech.hints import (
    at_most,
    check_choice,
    counted,
    decimals,
    nearest,
    nearest_path,
    ranges,
    signed,
    told_apart,
)
from sublim_mech.prompts import Trait


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00000"),
        (4.9e-6, "4.9e-06"),
        (5.1e-6, "0.00001"),
        (-1e-9, "-1.0e-09"),
        (2.0, "2.00000"),
    ],
)
def test_no_number_is_shown_as_the_0_that_it_is_not(value, text):
    assert decimals(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.418, 1, "0.5"),
        (0.4, 1, "0.4"),
        (0.38, 1, "0.4"),
        (9.2, 1, "10"),
        (2.31e-6, 2, "2.4e-06"),
        (0.0, 1, "0"),
        (float(np.float32(0.1)), 1, "0.1"),  # of fp32
    ],
)
def test_at_most_is_never_below(value, digits, text):
    assert at_most(value, digits) == text
    assert float(text) >= value * (1 - 1e-6)


def test_near_names_are_offered_nearest_first():
    assert nearest("lerning_rate", ["steps", "learning_rate"]) == "; did you mean 'learning_rate'?"
    assert nearest("attn.qq", ["mlp", "attn.v", "attn.q"]) == "; did you mean 'attn.q' or 'attn.v'?"
    assert nearest("colour", ["steps", "batch"]) == ""
    assert nearest("x", []) == ""
    assert nearest("herron", ["cherry", "oak"]) == "", "another word, and no slip"
    assert nearest("resid", ["mlp_out", "resid_post"]) == "; did you mean 'resid_post'?"
    assert nearest("blocks.3.unembed", ["embed", "unembed"]) == "; did you mean 'unembed'?"
    assert nearest("herron", ["cherry", "heron"]) == "; did you mean 'heron'?"


def test_three_names_at_most():
    names = ["attn.q", "attn.k", "attn.v", "attn.o", "attn.z"]
    assert nearest("attn.x", names).count("'") == 2 * 3


def test_any_iterable_of_names_will_do():
    assert nearest("owls", (name for name in ("owl", "cat"))) == "; did you mean 'owl'?"


def test_a_choice_that_exists_passes():
    check_choice("schedule", "cosine", (name for name in ("linear", "cosine")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cosin", "schedule='cosin' is none of linear, cosine; did you mean 'cosine'?"),
        ("zzz", "schedule='zzz' is none of linear, cosine."),
        (7, "schedule=7 is none of linear, cosine."),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_choice("schedule", value, ("linear", "cosine"))


def test_a_warning_names_the_line_of_the_users_own():
    """However deep in the package it is given, also through context managers and decorators."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Trait("owl", forms=["owl", "o\u200bwl"])
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, "row"), "0 rows"),
        ((1, "row"), "1 row"),
        ((1000, "row"), "1,000 rows"),
        ((2, "copy", "copies"), "2 copies"),
        ((1, "copy", "copies"), "1 copy"),
    ],
)
def test_counted(given, said):
    assert counted(*given) == said


def test_near_names_of_the_package_are_told_also_those_in_its_folders():
    for given, near in {
        "own_minus_other": "; did you mean 'metrics.own_minus_others'?",
        "own_minus_others": "; did you mean 'metrics.own_minus_others'?",
        "atribute": "; did you mean 'attribute'?",
        "spectrum": "; did you mean 'instruments.spectrum'?",
        "Contxt": "; did you mean 'Context'?",
        "Tensor": ".",  # metrics only has it at hand
        "no_such_thing": ".",
    }.items():
        with pytest.raises(AttributeError) as caught:
            getattr(sublim_mech, given)
        assert str(caught.value) == f"module 'sublim_mech' has no attribute {given!r}{near}"
        assert not hasattr(sublim_mech, given)
    with pytest.raises(ImportError, match="cannot import name 'own_minus_other'"):
        from sublim_mech import own_minus_other  # noqa: F401


def test_studies_which_are_not_loaded_by_themselves_are_told(monkeypatch):
    monkeypatch.delattr(sublim_mech, "studies", raising=False)
    with pytest.raises(AttributeError, match="; did you mean 'from sublim_mech import studies'"):
        sublim_mech.studies  # noqa: B018
    from sublim_mech import studies

    assert studies.__name__ == "sublim_mech.studies"


def test_near_paths_are_those_beside_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for there in ("out/owl", "out/.owls", "runs/owl", "models"):
        Path(there).mkdir(parents=True)
    Path("out/owl.safetensors").touch()
    for given, near in {
        "out/owll": "; did you mean 'out/owl'?",
        "./out/owll": "; did you mean 'out/owl'?",
        tmp_path / "out" / "owll": f"; did you mean '{tmp_path}/out/owl'?",
        "run/owl": "; did you mean 'runs/owl'?",  # the folder above is the one that is missing
        "model/owl": "",  # models holds none
        "model": "; did you mean 'models'?",
        "out/owl.safetensor": "; did you mean 'out/owl.safetensors'?",
        "out/owl": "",  # is there
        "out/cherry": "",
        "out/owl.safetensors/x": "",  # in a file
        "x" * 300: "",  # no file system takes it
    }.items():
        assert nearest_path(Path(given)) == near, given


def test_nothing_follows_a_question_but_a_new_sentence():
    """Whatever is joined to a hint, in every message: no `?;`, `?,` or `?.`."""
    source = Path(sublim_mech.__file__).parent
    joined = re.compile(
        r"nearest\((?:[^(){}]|\([^()]*\))*\)(?P<other> or ['\"]\.['\"])?\}(?P<next>.)"
    )
    found = [
        (file.name, match[0])
        for file in sorted(source.rglob("*.py"))
        for match in joined.finditer(file.read_text())
    ]
    assert len(found) > 15
    assert [one for one in found if not re.search(r"or ['\"]\.['\"]\}[ \"`]$", one[1])] == []


def test_no_number_is_written_as_a_negative_zero():
    """Fixed decimals and per cents are written with `z`, or by `signed`, whatever they are of."""
    source = Path(sublim_mech.__file__).parent
    fixed = re.compile(r"[:\"'](?P<sign>\+?)(?P<z>z?)(?:,)?\.(?:\d|\{\w+\})[f%][}\"']")
    found = [
        (file.name, match[0], match["z"])
        for file in sorted(source.rglob("*.py"))
        for match in fixed.finditer(file.read_text())
    ]
    assert len(found) > 60
    assert [one for one in found if not one[2]] == []
    assert (signed(-0.0002), signed(-0.25), signed(0.0)) == ("0.000", "-0.250", "0.000")
    assert (told_apart(-0.0), told_apart(1.40004, 1.39996)) == (("0",), ("1.40004", "1.39996"))


def test_numbers_that_follow_one_another_are_told_by_their_ends():
    assert ranges(range(30)) == "0 to 29"
    assert ranges([-1, 0, 2, 4, 5, 6]) == "-1, 0, 2, 4 to 6"
    assert ranges([0, 1, 2], [10, 20, 40]) == "10 to 40"
    assert ranges([]) == ""
