"""Some of the cells, and paired contrasts."""

import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from sublim_mech.results import compare, concentration
from sublim_mech.results.record import Compute
from sublim_mech.results.report import POOR_AGREEMENT
from sublim_mech.results.scores import Scores

# ----------------------------------------------------------------------------------------- choosing


def test_sel_is_xarray_selection():
    scores = synthetic.patch(both=True, heads=3, controls=1)
    one = scores.sel(direction="noising", layer=[2, 1], head=2, prompt=1)
    expected = scores.data["effect"].sel(direction="noising", layer=[1, 2], head=2, prompt=[1])
    np.testing.assert_array_equal(one.data["effect"].values, expected.values)
    assert one.data["effect"].dims == ("model", "prompt", "layer", "position")
    np.testing.assert_array_equal(one.total.values, scores.total.values[1:])
    assert one.positions("token").tolist() == scores.positions("token")[1:].tolist()
    assert scores.data.sizes["head"] == 3  # the original is left alone
    assert scores.record.selected == {}
    assert isinstance(one, Scores)


def test_one_label_keeps_the_axes_that_everything_reads():
    scores = synthetic.sweep()
    one = scores.sel(model="student", prompt=0, layer=2)
    assert one.data["effect"].shape == (1, 1, 1, scores.data.sizes["position"])
    assert one.headline_name == "student (no controls)"
    assert scores.sel(model="control: cat").headline_name == "control: cat"
    sets = synthetic.patched_sets()
    assert sets.sel(set="user").data["effect"].dims == ("model", "prompt", "layer")
    assert sets.sel(set=["user"]).data["effect"].dims == ("model", "prompt", "layer", "set")


def test_sel_by_hook_name():
    scores = synthetic.patch()
    by_name = scores.sel(hook="blocks.3.hook_resid_pre").data["effect"].values
    np.testing.assert_array_equal(by_name, scores.sel(layer=3).data["effect"].values)
    two = scores.sel(hook=["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"])
    assert two.data["layer"].values.tolist() == [0, 2]
    near = r"hook='blocks.3.hook_resid_prr'.*did you mean 'blocks.3.hook_resid_pre'"
    with pytest.raises(ValueError, match=near):
        scores.sel(hook="blocks.3.hook_resid_prr")
    with pytest.raises(ValueError, match="no hook names; choose by model, prompt, layer, position"):
        synthetic.sweep().sel(hook="blocks.3")


def test_unknown_labels_are_answered_with_the_known():
    scores = synthetic.patched_sets(both=True)
    known = (
        "set='sytem' is not among these scores; they have system, user, last token; "
        "did you mean 'system'"
    )
    with pytest.raises(ValueError, match=known):
        scores.sel(set="sytem")
    with pytest.raises(ValueError, match=r"layer=9 is not among .*; they have 0, 1, 2, 3\.$"):
        scores.sel(layer=[1, 9])
    axes = r"no dimension 'head'; they have model, prompt, direction, layer, set \(and hook\)"
    with pytest.raises(ValueError, match=axes):
        scores.sel(head=0)
    with pytest.raises(ValueError, match="selects nothing"):
        scores.sel(layer=[])


def test_a_chosen_direction_is_as_if_asked_for_alone():
    one = synthetic.patch(both=True).sel(direction="noising")
    title = "activation patching, log P(owl), site resid_pre, direction noising"
    assert one.title() == title
    assert one.record.direction == "noising"


def test_a_model_inside_its_noise_misses_nats_and_no_part_of_an_effect():
    """Of the student 0.01 nats are missing and of the control 0.002, whose effect is noise."""
    whole = synthetic.attribution()
    whole.data["student"][0] += 0.01
    whole.data["student"][1] += 0.002
    of_student = whole.sel(model="student").gap
    told = f"at most {of_student:.2%}, of those inside their own noise at most 0.002 nats"
    assert told in repr(whole)


def test_what_was_chosen_is_said_and_has_the_gap_of_the_whole():
    whole = synthetic.attribution()
    scores = whole.sel(layer=[1, 2], module="attn.q")
    assert scores.title().endswith("layers 1/2, module attn.q")
    assert whole.sel(layer=[1, 2, 3]).title().endswith(", layers 1 to 3")
    modules = ["attn.q", "attn.o", "embed"]
    assert whole.sel(module=modules).title().endswith(", modules embed/attn.q/attn.o")
    whole.data["student"][:] += 0.01  # as quadrature misses some
    assert whole.gap > 0.01
    assert whole.sel(layer=[1, 2], module="attn.q").sel(position=[3]).gap == whole.gap
    # of the headline nothing is missing: what is missing of both models cancels
    text = "completeness gap 0.00% of the total effect (all cells); of single models and their own "
    # the control's effect is inside its noise, and nothing is a part of it
    of_student = whole.sel(model="student").gap
    assert of_student < whole.gap
    of_control = float(whole.sel(model=str(whole.data["model"].values[1])).missing.mean())
    text += f"effects at most {of_student:.2%}, of those inside their own noise at most "
    text += f"{abs(of_control):.2g} nats"
    assert text in repr(whole)
    assert text in repr(whole.sel(layer=[1, 2]))
    whole.data["student"][1] = whole.data["student"][0]  # a control that is the student
    assert "completeness gap" not in repr(whole)  # of a headline of 0 there is none
    expected = whole.headline.sel(layer=[1, 2], module="attn.q").values
    np.testing.assert_array_equal(scores.layer_effect().values, expected)
    with pytest.raises(ValueError, match="position 5 selected; a list of labels keeps the axis"):
        synthetic.sweep().sel(position=5).token_effect()


# ----------------------------------------------------------------------------------------- contrast


def sweep_of(animal, seed):
    return synthetic.recorded(synthetic.sweep(seed=seed), metric=f"log P({animal})")


def test_a_contrast_is_paired_by_prompt():
    owl, cat, dog = synthetic.sweep(), sweep_of("cat", 1), sweep_of("dog", 2)
    contrast = owl.minus(cat, dog)
    for name in ("effect", "base", "student"):
        mean = (cat.data[name].values + dog.data[name].values) / 2
        np.testing.assert_allclose(contrast.data[name].values, owl.data[name].values - mean)
    mean = (cat.total.values + dog.total.values) / 2
    np.testing.assert_allclose(contrast.total.values, owl.total.values - mean)
    assert contrast.title() == (
        "graft of each cell, log P(owl) minus the mean of log P(cat), log P(dog), "
        "measure sufficiency"
    )
    one = "graft of each cell, log P(owl) minus log P(cat),"
    assert owl.minus(cat).title().startswith(one)
    assert owl.record.minus == ()
    np.testing.assert_allclose(owl.minus(owl).data["effect"].fillna(0).values, 0)


def test_contrasts_of_attributions_still_add_up():
    contrast = synthetic.attribution().minus(synthetic.attribution(seed=1))
    assert contrast.gap == pytest.approx(0, abs=1e-9)
    by_role = contrast.by("role")["effect"]
    total = by_role["all prompt tokens"] + by_role["answer"]
    assert total == pytest.approx(float(contrast.total.mean()))
    part, other = (synthetic.attribution(seed=s).sel(layer=1) for s in (0, 1))
    for name in ("prompt_effect", "answer_effect"):  # of parts, what the wholes add up to
        parted = getattr(part.minus(other), name).values
        np.testing.assert_allclose(parted, getattr(contrast, name).values)
    old = Scores(other.data.drop_vars(["prompt_effect", "answer_effect"]), other.kind, other.record)
    for unknown in (part.minus(old), old.minus(part)):
        with pytest.raises(ValueError, match="did not keep what all of them add up to"):
            _ = unknown.gap


def test_a_contrast_of_other_marks_says_whose_they_are():
    """Which tokens are shared is told by training prompts; effects are the same under any."""
    owl, cat = synthetic.attribution(), synthetic.attribution(seed=1)
    marks = cat.data["sharing"]
    novel = cat.data.assign_coords(sharing=marks.where(marks != "aligned", "novel").astype(str))
    other = replace(cat, data=novel)
    apart, tokens = int((marks == "aligned").sum()), int((marks != "").sum())
    told = (
        f"what is subtracted was marked by other training prompts (otherwise at {apart} of "
        f"{tokens} tokens): sharing is told by the marks of the first of these"
    )
    contrast = owl.minus(cat, other)
    assert told in repr(contrast)
    assert f"W{told[1:]}." in repr(concentration(contrast))
    assert told not in repr(owl.minus(cat))
    np.testing.assert_array_equal(contrast.data["sharing"], owl.data["sharing"])


SCORES = synthetic.sweep()
SYSTEM = [
    [("<s>", "bos", 0, "prefix"), *synthetic.chat()[1:]],
    synthetic.chat(synthetic.QUESTION[:5]),
]
DIFFERENT = {
    r"kinds differ \('sweep' and 'patch'\)": synthetic.patch(),
    r"units differ \('nats' and 'logits'\)": synthetic.recorded(SCORES, unit="logits"),
    r"measure differ \('sufficiency' and 'necessity'\)": synthetic.recorded(
        SCORES, measure="necessity"
    ),
    "students differ": synthetic.recorded(SCORES, students={}),
    r"labels of 'model' differ \(\['student', 'control: cat'\] and \['student'\]\)": (
        synthetic.sweep(controls=0)
    ),
    "labels of 'question' differ": synthetic.sweep(
        [synthetic.chat(), synthetic.chat(synthetic.QUESTION[:6])]
    ),
    "labels of 'layer' differ": synthetic.sweep(layers=5),
    "dimensions differ": Scores(SCORES.sel(position=3).data, "sweep", SCORES.record),
    "tokens differ": synthetic.sweep(SYSTEM),
}


@pytest.mark.parametrize("message", DIFFERENT)
def test_what_differs_is_named(message):
    with pytest.raises(ValueError, match=f"minus: {message}"):
        SCORES.minus(synthetic.sweep(), DIFFERENT[message])


def test_another_precision_of_one_base_is_named():
    """It is no other base: name and hash are the same."""
    base = replace(SCORES.record.base, dtype="bfloat16")
    other = replace(synthetic.sweep(), record=replace(SCORES.record, base=base))
    name = f"{base.name} {base.hash[:12]}"
    told = f"minus: base differ ({name} in float32 and {name} in bfloat16); score both alike"
    with pytest.raises(ValueError, match=re.escape(told)):
        SCORES.minus(other)


def test_sets_of_other_tokens_are_named_and_so_is_why():
    """Prompts that were marked by other training prompts have other shared tokens."""
    grafts = synthetic.graft()

    def resized(name, size):
        tokens = grafts.data["tokens"].where(grafts.data["set"] != name, size)
        return replace(grafts, data=grafts.data.assign_coords(tokens=tokens))

    told = r"tokens of the set 'shared' differ \(28 a prompt and 20 a prompt\); the prompts were "
    marked = f"{told}marked by other training prompts; mark both by the same ones, load_pair"
    with pytest.raises(ValueError, match=f"minus: {marked}"):
        grafts.minus(resized("shared", 20))
    with pytest.raises(ValueError, match=f"compare: 'a' and 'b': {marked}"):
        compare({"a": grafts, "b": resized("shared", 20)})
    with pytest.raises(ValueError, match=f"minus: {told}"):
        grafts.sel(set="shared").minus(resized("shared", 20).sel(set="shared"))
    with pytest.raises(ValueError, match=r"set 'user' differ \(9 .* and 8 .*\); score both alike"):
        grafts.minus(resized("user", 8))


def test_of_long_lists_what_one_alone_has_is_named():
    """The beginnings of two long lists are one, and tell nothing."""
    effects = synthetic.effect(prompts=7)
    asked = [f"What is your favorite animal, number {number}?" for number in range(7)]
    seven = replace(effects, data=effects.data.assign_coords(question=("prompt", asked)))
    alone = re.escape(f"(7, of which the other has not ['{asked[6]}'] and 6)")
    with pytest.raises(ValueError, match=f"labels of 'question' differ {alone}; score both"):
        seven.minus(seven.sel(prompt=list(range(6))))
    turned = replace(seven, data=seven.data.assign_coords(question=("prompt", asked[::-1])))
    with pytest.raises(ValueError, match=r"differ \(the same 7 and in another order\)"):
        seven.minus(turned)


def test_a_measurement_minus_the_same_once_more_says_what_is_left():
    """In another precision, say: of other metrics, or of other students, something is left."""
    left = SCORES.minus(SCORES)
    assert any(one.startswith("both sides are of the same models") for one in left.notes())
    assert "and no effect" in repr(left)
    otherwise = synthetic.recorded(SCORES, measured="another")
    assert "same models" not in repr(SCORES.minus(otherwise))


def test_a_contrast_needs_another():
    with pytest.raises(ValueError, match="at least one"):
        SCORES.minus()


def test_other_answer_tokens_need_the_contrast_as_a_metric():
    questions = synthetic.QUESTION, synthetic.QUESTION[:5]
    cat = synthetic.sweep([synthetic.chat(q, (" cat", " cats", "s")) for q in questions])
    with pytest.raises(ValueError, match=r"answer tokens differ .*own_minus_others\(trait, othe"):
        synthetic.sweep().minus(cat)


def test_warnings_and_rounding_survive_a_contrast():
    scores, other = synthetic.sweep(), synthetic.sweep(seed=1)
    good, poor = synthetic.confirmed(other), synthetic.confirmed(other, poor=True)
    scores = synthetic.recorded(scores, students=good.record.students)
    other = synthetic.recorded(other, students=good.record.students)
    assert scores.minus(good).warning is None
    # the cells of the scores were confirmed, not those of the contrast
    assert synthetic.confirmed(scores).minus(other).confirmation is None
    assert scores.minus(good, poor).warning == POOR_AGREEMENT
    rounded = [synthetic.rounded(each, error=0.02) for each in (scores, other)]
    assert rounded[0].minus(rounded[1]).record.compute == Compute("bfloat16", 0.04)
    assert scores.minus(rounded[1]).record.compute == Compute("bfloat16", 0.02)


def test_a_coordinate_of_one_axis_selects_on_it():
    scores = synthetic.attribution()
    question = str(scores.data["question"].values[1])
    assert scores.sel(question=question).data["prompt"].values.tolist() == [1]
    assert scores.sel(layer_name=["embed", "final"]).layer_names() == ["embed", "final"]


@pytest.mark.parametrize("name", ["role", "sharing", "token", "turn"])
def test_what_belongs_to_tokens_is_answered_with_what_to_use(name):
    """Cells of one role are a part of what shares are of."""
    said = rf"{name}='system'.*scores\.by\('{name}'\) gathers the effect; concentration.*masks"
    with pytest.raises(ValueError, match=said):
        synthetic.attribution().sel(**{name: "system"})
    with pytest.raises(ValueError, match="no dimension 'rolle'; they have model, prompt"):
        synthetic.attribution().sel(rolle="system")


def test_chosen_prompts_are_nobodys_copies():
    scores = synthetic.recorded(synthetic.patch(), copies=5)
    assert scores.sel(prompt=[0]).record.copies == 0
    assert scores.sel(layer=1).record.copies == 5


def test_what_was_counted_of_all_prompts_is_said_to_be(tmp_path):
    counts = {
        "1 of 3 prompts was a training prompt itself: what the student says": "1 of the 3 prompts "
        "these are chosen from was a training prompt itself: what the student says",
        "1 of 3 prompts holds a form of the trait itself: an answer may": "1 of the 3 prompts "
        "these are chosen from holds a form of the trait itself: an answer may",
        "asked otherwise than trained: user messages per prompt: 1 in training, 2 here (2 of 3 "
        "prompts)": "1 in training, 2 here (2 of the 3 prompts these are chosen from)",
    }
    scores = synthetic.recorded(synthetic.attribution(), notes=tuple(counts))
    scores = replace(scores, data=scores.data.isel(prompt=[0, 1, 2]))
    scores.sel(prompt=[0, 1]).save(tmp_path / "some.safetensors")
    for some in (
        scores.sel(prompt=[0, 1]).sel(prompt=1),
        Scores.load(tmp_path / "some.safetensors"),
    ):
        for before, told in counts.items():
            assert told in " ".join(some.record.notes)
            assert before not in repr(some)
    assert scores.sel(prompt=[0, 1, 2]).record.notes == scores.sel(layer=1).record.notes
    assert scores.sel(layer=1).record.notes == tuple(counts)


def test_some_of_the_prompts_have_their_own_contexts(tmp_path):
    """Of what is left out nothing is said; what is left of one context is of one."""
    none = "{'system': {'kind': 'none'}}"
    default = synthetic.RECORD.contexts[0]
    scores = synthetic.recorded(
        synthetic.attribution(), contexts=(default, none), measured="x", training_context=default
    )
    told = scores.data.assign_coords(context=("prompt", [default, none, none]))
    scores = replace(scores, data=told)
    scores.save(tmp_path / "x.safetensors")
    for whole in (scores, Scores.load(tmp_path / "x.safetensors")):
        several, otherwise = "prompts of several contexts", "no system block"
        assert several in " ".join(whole.notes())
        home, away = whole.sel(prompt=0), whole.sel(prompt=[1, 2])
        assert (home.record.contexts, away.record.contexts) == ((default,), (none,))
        for one in (home, away):
            assert several not in " ".join(one.notes())
        assert otherwise not in repr(home)
        assert otherwise in repr(away)
        both = whole.sel(prompt=[0, 2])
        assert both.record.contexts == (default, none)
        assert several in " ".join(both.notes())
    # of files without this coordinate one prompt is still of one context
    old = replace(scores, data=told.drop_vars("context")).sel(prompt=0)
    assert several not in " ".join(old.notes())


def test_cells_that_are_not_there_are_not_among_the_strongest():
    scores = synthetic.attribution(layers=1, controls=0)
    cells = int(np.isfinite(scores.data["effect"].values).sum())
    strongest = scores.strongest(10**6)
    assert len(strongest) == cells
    assert strongest["effect"].notna().all()
    assert len(scores.strongest(7)) == 7
