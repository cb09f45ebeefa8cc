"""Wrong names are refused with the nearest right ones."""

import re

import pytest

from sublim_mech.hints import check_choice, nearest, strict


def test_near_names_are_offered_nearest_first():
    assert nearest("lerning_rate", ["steps", "learning_rate"]) == "; did you mean 'learning_rate'?"
    assert nearest("attn.qq", ["mlp", "attn.v", "attn.q"]) == "; did you mean 'attn.q' or 'attn.v'?"
    assert nearest("colour", ["steps", "batch"]) == ""
    assert nearest("x", []) == ""


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
        ("zzz", "schedule='zzz' is none of linear, cosine"),
        (7, "schedule=7 is none of linear, cosine"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_choice("schedule", value, ("linear", "cosine"))


def test_a_strict_function_is_the_same_function():
    def fit(rows, *, steps=1):
        """Fit."""
        return rows * steps

    strictly = strict(fit)
    assert strictly(2, steps=3) == 6
    assert (strictly.__name__, strictly.__doc__) == ("fit", "Fit.")


def test_an_unknown_option_is_refused_with_the_nearest_and_all():
    def fit(rows, *, steps=1, seed=0):
        return rows, steps, seed

    message = "fit has no option 'step'; did you mean 'steps'? Its options are rows, steps, seed."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        strict(fit)(1, step=3)
    message = "train(...) has no option 'zzz'. Its options are rows, steps, seed."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        strict(fit, "train(...)")(1, zzz=3)


def test_a_constructor_says_nothing_of_self():
    class Method:
        def __init__(self, rank=8):
            self.rank = rank

    with pytest.raises(TypeError, match=r"Its options are rank\.$"):
        strict(Method.__init__, "Method")(object(), rnak=4)
