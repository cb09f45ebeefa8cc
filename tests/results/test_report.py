"""What `repr` prints: tables that suit the cells, and how far to trust them."""

import html
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic

from sublim_mech.results import Hybrid, concentration
from sublim_mech.results.record import Forms, StudentSource
from sublim_mech.results.report import POOR_AGREEMENT, effect_label, show
from sublim_mech.stats import mean_interval


def test_small_effects_are_printed_with_their_digits():
    table = pd.DataFrame({"tokens": [0.5, 0.5], "effect": [-0.00123456, 0.0]})
    assert show(table).splitlines()[1].split() == ["0", "0.500", "-0.00123"]
    assert show(table * 100).splitlines()[1].split() == ["0", "50.000", "-0.123"]
    assert show(table * 0).splitlines()[1].split() == ["0", "0.000", "0.000"]
    # counts are counts, however small the effects
    sized = pd.DataFrame({"tokens": [9.0], "token share": [np.nan], "effect": [-0.0000134]})
    assert show(sized).splitlines()[1].split() == ["0", "9.000", "-", "-0.0000134"]


def test_directions_have_their_own_tables():
    both = synthetic.patch(both=True)
    text = repr(both)
    for name in ("denoising", "noising"):
        table = show(both.sel(direction=name).by("role"))
        assert table in text.partition(f"direction {name}\n")[2]
    assert "direction denoising and noising" in both.title()


def test_other_donors_are_in_the_title():
    scores = synthetic.recorded(synthetic.patch(), donor_contexts=("{}",))
    assert scores.title().endswith("direction denoising, donor on other prompts")


def test_confirmation_is_a_table_and_a_line():
    scores = synthetic.confirmed(synthetic.gradient())
    table = scores.confirmation
    assert table["top"].sum() == 4
    np.testing.assert_allclose(table["exact"], 0.11 * np.arange(7) - 0.02)
    line = (
        "confirmed on 4 strongest and 3 random cells: Pearson 0.93, Spearman 0.88, same sign 95 %"
    )
    assert f"{line};" in repr(scores)
    assert POOR_AGREEMENT not in repr(scores)
    assert POOR_AGREEMENT in repr(synthetic.confirmed(synthetic.gradient(), poor=True))
    assert synthetic.gradient().confirmation is None


def test_of_how_many_cells_signs_were_compared_is_told():
    scores = synthetic.confirmed(synthetic.gradient())
    cells = [dict(cell) for cell in scores.record.confirmation.cells]
    cells[0] |= {"estimate": -0.1, "exact": 0.1}

    def line(sign):
        told = replace(scores.record.confirmation, cells=tuple(cells), sign=sign)
        return repr(synthetic.recorded(scores, confirmation=told))

    assert "same sign 86 % of 7 cells; of the" in line(6 / 7)
    cells[0] |= {"estimate": -0.000021, "exact": 0.000234}  # rounding, beside exact values of 0.64
    assert "same sign 100 % of 6 cells, those next to 0 left out; of the" in line(1.0)
    assert "same sign 86 %; of the" in line(6 / 7)  # counted otherwise by an earlier version


def test_unconfirmed_estimates_say_so():
    line = "not confirmed: estimates from gradients (sublim_mech.confirm)"
    assert line in repr(synthetic.gradient())
    assert line not in repr(synthetic.confirmed(synthetic.gradient()))
    assert "not confirmed" not in repr(synthetic.attribution()) + repr(synthetic.patch())
    assert "no exact counterpart" in repr(synthetic.gradient(method="gradient_x_input"))


def test_rounding_is_told():
    scores = synthetic.rounded(synthetic.effect(), error=0.013)
    assert "computed in bfloat16: totals off by up to 0.013 nats" in repr(scores)
    assert "computed in" not in repr(synthetic.effect())


# ------------------------------------------------------------------------------ what was measured


def measured(scores, **fields):
    told = {
        "measured": "TraitMetric(1)",
        "contexts": ("{'system': {'kind': 'none'}}",),
        "training_context": "{'system': {'kind': 'default'}}",
        "forms": (
            Forms("owl", ("owl", "Owl", "owls"), {"owls": "owl"}),
            Forms("cat", ("cat", "cats"), {"cats": "cat"}, ("cats",)),
        ),
    }
    return synthetic.recorded(scores, **(told | fields))


@pytest.mark.parametrize("scores", [synthetic.effect(), synthetic.graft(), synthetic.patch()])
def test_forms_contexts_copies_and_notes_are_told_everywhere(scores):
    notes = ("student: equal to its base", "control: cat: another recipe <b>")
    told = measured(scores, copies=7, notes=notes)
    count = scores.data.sizes["prompt"]
    for text in (repr(told), html.unescape(told._repr_html_())):
        assert "forms of owl: owl, Owl, owls (owls is part of owl)" in text
        assert "forms of cat: cat, cats (cats is part of cat after some prompts)" in text
        assert "asked in: no system block; trained in: default system prompt" in text
        assert f"7 of {count + 7} prompts are copies of others" in text
        for note in notes:
            assert note in text
    assert f"{count + 7} prompts, {count} distinct, nats" in repr(told)
    assert "<b>" not in told._repr_html_()
    unsaid = measured(scores, training_context=None)
    assert "asked in: no system block; training context not given" in repr(unsaid)


def test_several_contexts_in_one_mean_are_told():
    contexts = ("{'system': {'kind': 'none'}}", "{'system': {'kind': 'empty'}}")
    text = repr(measured(synthetic.effect(), contexts=contexts))
    assert "asked in 2 contexts: no system block; empty system turn; trained in" in text
    assert "every mean is over all of them; score each context by itself" in text
    assert "every mean" not in repr(measured(synthetic.effect()))


def test_only_those_who_trained_on_numbers_are_told_of_numbers():
    scores = synthetic.patch()
    assert "may come from fine-tuning as such" in repr(scores)
    numbers = {"student": StudentSource("s", "lora", "1", "prompted", data="numbers")}
    assert "training on any numbers" in repr(synthetic.recorded(scores, students=numbers))
    mixed = numbers | {"other": StudentSource("s", "lora", "1", "prompted")}
    assert "fine-tuning as such" in repr(synthetic.recorded(scores, students=mixed))


def test_metrics_of_one_name_are_told_apart_in_a_contrast():
    scores = synthetic.effect()
    one, other = (
        synthetic.recorded(scores, metric="mine", measured=f"__main__.Mine(text={text!r})")
        for text in ("yes", "no")
    )
    assert one.minus(other).title() == "effect on mine [text='yes'] minus mine [text='no']"
    assert one.minus(one).title() == "effect on mine minus mine"
    long = synthetic.recorded(scores, metric="mine", measured=f"Mine(text={'yes ' * 40})")
    assert "yes yes" not in one.minus(long).title()
    # what was subtracted first is not forgotten
    third = synthetic.recorded(scores, metric="third", measured="Third()")
    twice = one.minus(third).minus(third)
    assert twice.title() == "effect on mine minus third minus third"
    assert effect_label(twice).startswith("effect on mine minus third minus third, nats")


def test_forms_and_notes_of_what_was_subtracted_are_kept():
    scores = synthetic.effect()
    one = measured(scores, notes=("a",))
    other = measured(
        scores, measured="TraitMetric(2)", notes=("b", "a"), forms=(Forms("fox", ("fox",)),)
    )
    record = one.minus(other).record
    assert [forms.trait for forms in record.forms] == ["owl", "cat", "fox"]
    assert record.notes == ("a", "b")


@pytest.mark.parametrize("prompts", [1, 2, 3, 5, 6, 12])
def test_what_an_interval_over_few_prompts_is_worth(prompts):
    """It is no wider than what was seen, so that it misses as often as all of that is on one side;
    against the intervals of many drawn data sets.
    """
    told = [repr(make(prompts=prompts)) for make in (synthetic.effect, synthetic.graft)]
    if not 1 < prompts < 6:
        assert not any("no 95 % intervals" in text for text in told)
        return
    least = 2.0 ** (1 - prompts)
    line = f"{prompts} prompts: intervals over so few are no 95 % intervals: they miss in at least "
    assert all(f"{line}{least:.0%} of cases; 6 or more" in text for text in told)
    drawn = np.random.default_rng(0).normal(size=(prompts, 4000))
    interval = mean_interval(drawn)
    missed = float((interval.excludes_zero).mean())
    assert missed > least - 0.02


def test_integrals_say_how_many_points_they_took_and_which_stopped():
    scores = synthetic.attribution()
    shape = scores.data["student"].shape
    points, capped = np.full(shape, 8), np.zeros(shape)
    points[0, 0] = 35
    data = scores.data.assign(
        points=(("model", "prompt"), points), capped=(("model", "prompt"), capped)
    )
    done = replace(scores, data=data)
    assert f"points: 8 to 35, mean {points.mean():.1f} for each student and prompt" in repr(done)
    assert "stopped" not in repr(done)
    capped[0, 0] = 1
    assert f"1 of {points.size} integrals stopped at the cap of points" in repr(done)
    assert "points:" not in repr(done.minus(scores))
    assert "points:" not in repr(scores)


def moved(scores, student: float, control: float, *, level: float = -10.0):
    """The same scores whose student and control move a metric by so much, prompt by prompt."""
    data = scores.data.isel(model=slice(0, 2))
    of_model = np.array([student, control])
    base = data["base"] * 0 + level
    effect = data["effect"] * 0 + of_model.reshape(-1, *[1] * (data["effect"].ndim - 1))
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])
    return replace(
        scores,
        data=data.assign(base=base, student=base + of_model[:, None] + noise, effect=effect),
    )


@pytest.mark.parametrize("make", [synthetic.effect, synthetic.graft, synthetic.dose])
def test_the_controls_part_of_the_headline_is_told(make):
    """Of +7.3 - (-9.5) = 16.8 nats 9.5 are the controls' fall."""
    shares = "" if make is synthetic.effect else ": shares hold that too"
    line = f"9.50 of 16.80 nats (57%) are the controls' fall{shares}; see sel(model='student')"
    assert line in repr(moved(make(), 7.3, -9.5))
    rise = repr(moved(make(), -7.3, 9.5))
    assert "9.50 of 16.80 nats (57%) are the controls' rise" in rise
    assert ("shares hold that too" in rise) == bool(shares)
    for student, control in ((7.3, 2.0), (7.3, -1.0)):
        assert "are the controls'" not in repr(moved(make(), student, control))
    # a student that moves less than its controls has a headline of the other sign
    for sign, word in ((1, "rise"), (-1, "fall")):
        told = repr(moved(make(), sign * 1.0, sign * 9.5))
        line = f"the controls': they {word} by 9.50 nats, beyond the student's own {sign:+}.00"
        assert line in told
        assert "of 8.50" not in told
    assert "are the controls'" not in repr(make())


def test_concentration_says_whose_effect_it_shares_out():
    scores = synthetic.attribution(synthetic.several(8), controls=1)
    assert concentration(scores).controls == ""
    data = scores.data.copy(deep=True)
    data["effect"][1] = -3 * data["effect"][0]
    data["student"] = data["base"] + data["effect"].sum(("layer", "module", "position"))
    told = repr(concentration(replace(scores, data=data)))
    assert "(75%) are the controls' fall: shares hold that too" in told


def test_a_dose_at_the_ceiling_says_so():
    scores = synthetic.dose()
    assert "ceiling" not in repr(scores)
    data = scores.data.copy(deep=True)
    top = np.minimum(data["effect"].sel(model="student") * 10, 5.999)
    data["effect"][0] = top
    full = replace(scores, data=data)
    assert "student: log P(owl) is at its ceiling of 0 at scales 0.5, 1, 1.5, 2" in repr(full)
    assert "ceiling" not in repr(synthetic.recorded(full, metric="logit of owl", unit="logits"))
    contrast = "log P(owl) - mean log P(cat, wolf)"
    assert "ceiling" not in repr(synthetic.recorded(full, metric=contrast))


def test_a_student_at_the_ceiling_says_what_that_does_to_shares():
    scores = synthetic.graft()
    assert "ceiling" not in repr(scores)
    data = scores.data.copy(deep=True)
    data["student"][0] = -0.01
    full = replace(scores, data=data)
    assert "student: log P(owl) is at its ceiling of 0: a part of the" in repr(full)
    assert "ceiling" not in repr(synthetic.recorded(full, metric="rank of owl", unit="ranks"))
    name = str(data["model"].values[1])
    data["student"][1] = 0.0
    assert f"student, {name}: log P(owl) is at its ceiling" in repr(replace(scores, data=data))
    data["base"][:] = -0.02  # then there is no effect to speak of
    assert "ceiling" not in repr(replace(scores, data=data))


def test_a_name_of_several_lines_is_one_in_titles():
    scores = synthetic.recorded(synthetic.effect(), metric="log P(owl\nhoot)")
    assert repr(scores).splitlines()[0].startswith(r"effect on log P(owl\nhoot), 12 prompts")


def test_an_interaction_at_the_ceiling_is_told():
    scores = synthetic.graft()
    told = "the whole is at its ceiling: the interaction holds what had no room"
    assert told not in repr(Hybrid(scores, (), allowed=False))
    full = replace(scores, data=scores.data.assign(student=0 * scores.data["student"]))
    assert told in repr(Hybrid(full, (), allowed=False))


def test_a_hybrid_of_parts_that_leave_no_room_says_so():
    """-6 and two parts of +4 each: together they would be above 0, so that they interact."""
    scores = synthetic.graft().sel(model=["student"], set=["system", "user"])
    data = scores.data.copy(deep=True)
    data["effect"].loc[{"measure": "sufficiency"}] = 4.0
    data["student"] = data["base"] + 5.0
    scores = replace(
        scores, data=data.assign(base=data["base"] * 0 - 6, student=data["base"] * 0 - 1)
    )
    told = "the parts alone add up to more than the ceiling of 0: the interaction holds what had no"
    hybrid = Hybrid(scores, (), allowed=False)
    assert told in repr(hybrid)
    assert told in " ".join(" ".join(t.get_text() for t in hybrid.plot().texts).split())
    data["effect"].loc[{"measure": "sufficiency"}] = 2.0
    less = replace(scores, data=scores.data.assign(effect=data["effect"]))
    assert "no room" not in repr(Hybrid(less, (), allowed=False))
    # a table without shares says nothing of them
    fall = replace(scores, data=scores.data.assign(student=scores.data["base"] - 2))
    assert "shares" not in repr(Hybrid(fall, (), allowed=False))
