"""The front of attribution: which method, which options, and what it refuses."""

import pytest
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.instruments.attribution import OPTIONS

GRADIENT = ("attribution_patching", "activation_ig", "gradient_x_input")
VALUES = {"points": 2, "site": "mlp_out", "direction": "noising"}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_method_takes_its_own_options_and_notes_them(method, llama, prompts):
    options = {name: VALUES[name] for name in OPTIONS[method]}
    scores = sm.attribute(llama, prompts[:1], TRAIT, method=method, **options, **QUIET)
    assert scores.kind == ("gradient" if method in GRADIENT else "attribution")
    noted = {name: getattr(scores.record, name) for name in VALUES}
    assert noted == dict.fromkeys(VALUES) | options
    assert scores.record.method == method


@pytest.mark.parametrize(
    ("method", "option"),
    [(m, option) for m, used in OPTIONS.items() for option in VALUES if option not in used],
)
def test_an_option_that_plays_no_part_is_refused(method, option, llama, prompts):
    """Dropped in silence it would read as if it had had an effect; the default is no exception."""
    users = ", ".join(m for m, used in OPTIONS.items() if option in used)
    defaults = {"points": "auto", "site": "resid_pre", "direction": "denoising"}
    for value in (VALUES[option], defaults[option]):
        message = f"{option}={value!r} plays no part in method={method!r}; leave it out "
        with pytest.raises(ValueError, match=f"{message}.{option} is an option of {users}"):
            sm.attribute(llama, prompts, TRAIT, method=method, **{option: value}, **QUIET)


@pytest.mark.parametrize("method", ["attribution_patching", "activation_ig"])
def test_a_full_hook_name_is_a_site_at_its_layer(method, llama, prompts):
    """Its cells are those of all layers, and are confirmed like them."""
    asked = {"method": method, **QUIET}
    one = sm.attribute(llama, prompts[:1], TRAIT, site="blocks.1.hook_mlp_out", **asked)
    every = sm.attribute(llama, prompts[:1], TRAIT, site="mlp_out", **asked)
    assert one.data["effect"].equals(every.data["effect"].sel(layer=[1]))
    assert one.data["hook"].values.tolist() == ["blocks.1.hook_mlp_out"]
    assert one.record.site == "mlp_out"
    confirmed = sm.confirm(llama, prompts[:1], TRAIT, one, k=2, **QUIET).confirmation
    assert len(confirmed) == 4


def test_what_is_not_given_has_a_default(llama, prompts):
    scores = sm.attribute(llama, prompts[:1], TRAIT, method="activation_ig", **QUIET)
    noted = {name: getattr(scores.record, name) for name in VALUES}
    assert noted == {"points": "auto", "site": "resid_pre", "direction": "denoising"}
    assert sm.attribute(llama, prompts[:1], TRAIT, **QUIET).record.points == "auto"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lrp"}, "method='lrp' is not known; choose one of graft_ig, attribution_pat"),
        ({"points": 0}, "points=0: give 1 to 1000, or 'auto'"),
        ({"points": "all"}, "points='all': give 1 to 1000, or 'auto'"),
        (
            {"method": "activation_ig", "direction": "both"},
            r"direction='both': pass 'denoising' \(student into base\) or 'noising'",
        ),
        (
            {"method": "attribution_patching", "site": "resid_mud"},
            "site='resid_mud' is not known here; did you mean 'resid_mid'",
        ),
    ],
)
def test_what_attribute_refuses(options, message, llama, prompts):
    with pytest.raises(ValueError, match=message):
        sm.attribute(llama, prompts, TRAIT, **options, **QUIET)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_metric_without_gradients_is_refused_with_what_to_use(method, llama, prompts):
    message = r"rank\('owl'\) is not differentiable, so gradients say nothing of it; use graft"
    with pytest.raises(ValueError, match=message):
        sm.attribute(llama, prompts, sm.metrics.rank("owl"), method=method, **QUIET)
