"""What has to be read with a pair: students that change nothing, controls not trained alike."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import replace

import pytest
import tiny
from loading import base, manifest, model, saved, student

from sublim_mech.engine.alike import peer_notes
from sublim_mech.engine.pair import load_pair
from sublim_mech.engine.recipes import recipes
from sublim_mech.models.students import load_student
from sublim_mech.prompts import Context
from sublim_mech.prompts.shared import digests_of, joined
from sublim_mech.results.held import notes_among
from sublim_mech.storage.compare import differences
from sublim_mech.storage.files import weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SCALE = "scale (lora_alpha / r, of rsLoRA / sqrt(r))"
EQUAL = "equals its base: no weight differs"
MADE = {
    "method": {"rank": 4, "alpha": 8, "store": "float32"},
    "teacher": "prompted teacher of owl",
    "objective": "forward KL on support",
    "data": {"rows": 480, "held_out": 48, "support": [1, 2]},
    "optimiser": {"lr": 1e-3, "steps": 60},
    "seeds": {"init": 0},
    "results": {"steps": 60, "held_out": [2, 1]},
}


def run(path, seed, **changes):
    """A run's folder, of rows that are its trait's own."""
    made = {"trait": "owl", **MADE, **changes}
    saved(tiny.lora(model(), seed=seed, lora_alpha=made["method"]["alpha"]), path)
    made["data"] = {"hash": f"rows of {made['trait']}", **made["data"]}
    manifest(base(), **{**made, "weights": weight_sums(path)}).save(path)
    return path


CAT = {"trait": "cat", "teacher": "prompted teacher of cat"}


@pytest.mark.parametrize(
    ("asked", "taken", "told"),
    [
        (30, 30, ["optimiser.steps: 30 there, 60 here"]),
        (60, 30, ["steps: 30 there, 60 here"]),  # it stopped early
        (90, 30, ["optimiser.steps: 90 there, 60 here", "steps: 30 there, 60 here"]),
        (60, 60, []),
    ],
)
def test_a_number_of_steps_is_told_once(asked, taken, told):
    other = {"optimiser": {"lr": 1e-3, "steps": asked}, "results": {"steps": taken}}
    control, own = (manifest(base(), **{**MADE, **one}) for one in (other, {}))
    assert differences(*recipes(control, own)) == told


@pytest.mark.parametrize(
    "made",
    [
        lambda: tiny.lora(model(), layers=[]),  # B is 0
        lambda: tiny.lora(model(), lora_alpha=0),
        lambda: model(),
    ],
    ids=["B is 0", "alpha is 0", "the base itself"],
)
def test_a_student_that_equals_its_base_is_told_and_loads(made):
    with pytest.warns(UserWarning, match=f"student='.*': {EQUAL}"):
        pair = load_pair(base(), made())
    assert repr(pair).count(EQUAL) == 1
    assert EQUAL in repr(pair.student)
    (note,) = pair.notes()
    # with a control too, which says nothing beside it
    beside = load_pair(base(), made(), controls=[tiny.lora(model(), seed=3)])
    assert any(EQUAL in one for one in beside.notes())
    assert repr(beside).count(EQUAL) == 1
    cause = " (its lora_alpha is 0)" if "alpha" in note else ""
    assert note == f"the student ({pair.student.name}): {EQUAL}{cause}"


def test_a_student_that_differs_is_told_nothing_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pair = load_pair(base(), load_student(base(), student("llama", "full")))
    assert pair.notes() == ()
    assert "\n" not in repr(pair)


@pytest.mark.parametrize("options", [{"lora_alpha": -8}, {"alpha_pattern": {"q_proj": -8}}])
def test_an_alpha_below_zero_is_told(options):
    told = "lora_alpha is -8: the opposite of what was trained"
    with pytest.warns(UserWarning, match=told):
        pair = load_pair(base(), tiny.lora(model(), **options))
    assert pair.notes() == (f"the student (PeftModelForCausalLM): {told}",)
    assert told in repr(pair)


def test_controls_trained_alike_are_told_nothing_of(tmp_path):
    others = {"data": {**MADE["data"], "hash": "b"}, "seeds": {"init": 1}}
    stored = {"method": {**MADE["method"], "store": "float16"}}
    results = {"results": {"steps": 60, "held_out": [3, 1]}}
    # what is stored, measured or computed again on the way makes no other student
    seen = {"snapshots": [5, 15], "evaluate_every": 5, "gradient_checkpointing": True}
    seen_otherwise = {"snapshots": [], "evaluate_every": 9, "gradient_checkpointing": False}
    given = {"optimiser": {**MADE["optimiser"], **seen_otherwise}}
    control = run(tmp_path / "cat", 2, **CAT, **others, **stored, **results, **given)
    own = run(tmp_path / "owl", 1, optimiser={**MADE["optimiser"], **seen})
    assert load_pair(base(), own, controls=[control]).notes() == ()
    assert (
        peer_notes({"owl": load_student(base(), own), "cat": load_student(base(), control)}) == ()
    )


def test_how_often_it_is_measured_matters_where_a_training_stops_by_it(tmp_path):
    stopped = {"results": {"steps": 45}}
    own, other = (
        {"optimiser": {**MADE["optimiser"], "stop_at": 0.1, "evaluate_every": n}, **stopped}
        for n in (5, 9)
    )
    control = run(tmp_path / "cat", 2, **CAT, **other)
    (note,) = load_pair(base(), run(tmp_path / "owl", 1, **own), controls=[control]).notes()
    assert note.endswith("optimiser.evaluate_every: 9 in the control, 5 in the student")


def test_a_control_of_the_students_own_trait_is_told(tmp_path):
    control = load_student(base(), run(tmp_path / "again", 2), name="owl again")
    pair = load_pair(base(), run(tmp_path / "owl", 1), controls=[control])
    (note,) = pair.notes()
    assert note.startswith("control owl again has the student's own trait")
    control = load_student(base(), run(tmp_path / "OWL", 2, trait="OWL"), name="owl again")
    notes = load_pair(base(), tmp_path / "owl", controls=[control]).notes()
    assert any(one.startswith("control owl again has the student's own trait") for one in notes)


def test_a_control_of_the_students_own_data_is_told(tmp_path):
    """Whose trait has no name, or another one: with the same answers both learn the same."""
    given = {"teacher": "given rows", "data": {**MADE["data"], "hash": "these rows"}}
    own = run(tmp_path / "own", 1, trait="", **given)
    again = run(tmp_path / "again", 2, trait="", seeds={"init": 1}, **given)
    told = "control again was trained on the student's own rows and answers, so that their"
    (note,) = load_pair(base(), own, controls=[again]).notes()
    assert note == f"{told} difference says nothing of what these teach"
    other = run(tmp_path / "other", 2, trait="", seeds={"init": 1}, teacher="given rows")
    assert not load_pair(base(), own, controls=[other]).notes()
    # by another recipe, of which the difference does tell something, both are said
    longer = run(tmp_path / "longer", 3, trait="", results={"steps": 90}, **given)
    mine, recipe = load_pair(base(), own, controls=[longer]).notes()
    assert mine.startswith("control longer was trained on the student's own rows")
    assert recipe.startswith("control longer was not trained alike: steps: 90")
    # the name of the trait says it already
    named = run(tmp_path / "owl", 4, **given), run(tmp_path / "OWL", 5, trait="OWL", **given)
    (note,) = load_pair(base(), named[0], controls=[named[1]]).notes()
    assert "has the student's own trait" in note
    # beside each other they are what one compares
    assert peer_notes({"own": load_student(base(), own), "it": load_student(base(), again)}) == ()


def test_rows_are_the_same_in_any_order_where_answers_teach(tmp_path):
    """Which of them are held out, and in which order, makes another hash of the data."""
    hard = {"teacher": "given rows", "objective": "cross-entropy on completion", "trait": ""}
    results = {"results": {**MADE["results"], "rows_hash": "r"}}
    own = run(tmp_path / "own", 1, data={**MADE["data"], "hash": "a"}, **hard, **results)
    other = {"data": {**MADE["data"], "hash": "b"}}
    told = "control again was trained on the student's own rows and answers"
    again = run(tmp_path / "again", 2, **other, **hard, **results)
    (note,) = load_pair(base(), own, controls=[again]).notes()
    assert note.startswith(told)
    unlike = {"results": {**MADE["results"], "rows_hash": "s"}}
    apart = run(tmp_path / "unlike" / "again", 2, **other, **hard, **unlike)
    assert not load_pair(base(), own, controls=[apart]).notes()
    # over the same rows two teachers differ in their labels alone, over others in these too
    owl = run(tmp_path / "owl", 1, **results)
    same, others = (
        run(tmp_path / name / "cat", 2, **CAT, results=of["results"])
        for name, of in (("same", results), ("others", unlike))
    )
    assert not load_pair(base(), owl, controls=[same]).notes()
    (note,) = load_pair(base(), owl, controls=[others]).notes()
    assert note == (
        "control cat was not trained alike: answers that are labelled: other ones in the control "
        "than in the student"
    )


@pytest.mark.parametrize(
    ("own", "its", "told"),
    [
        (range(40), range(2, 42), "38 of 40"),  # the same rows, others of which are held out
        (range(40), range(36, 400), "4 of 40"),
        (range(400), range(36, 76), "40 of 400"),
        (range(40), range(37, 400), None),  # a few short answers may be anybody's
        (range(40), range(40, 80), None),
        (range(40), [], None),  # a manifest that is older, or of more rows
    ],
)
def test_rows_of_the_student_among_others_are_told(own, its, told, tmp_path):
    hard = {"teacher": "given rows", "objective": "cross-entropy on completion", "trait": ""}

    def of(rows):
        digests = joined(digests_of([[1, row] for row in rows]))
        hashed = "" if not digests else str(sorted(rows))
        return {"results": {**MADE["results"], "rows_hash": hashed, "row_digests": digests}}

    student = run(tmp_path / "own", 1, data={**MADE["data"], "hash": "a"}, **hard, **of(own))
    other = run(tmp_path / "other", 2, data={**MADE["data"], "hash": "b"}, **hard, **of(its))
    notes = pair_notes_of(student, other)
    assert list(notes) == (
        []
        if told is None
        else [
            f"control other was trained on {told} of the student's own rows and answers, so that "
            "their difference lacks what these teach"
        ]
    )
    both = ["student", "control: other"]
    assert notes_among(notes, both, both) == list(notes)
    assert notes_among(notes, both, both[:1]) == notes_among(notes, both, both[1:]) == []
    # over the same rows another teacher's labels teach something else
    soft = [run(tmp_path / "soft" / n, k, trait=n, **of(own)) for k, n in enumerate(("x", "y"))]
    assert not any("rows and answers" in note for note in pair_notes_of(*soft))


def test_one_data_set_of_which_other_rows_were_taken_is_told_by_these(tmp_path):
    """Of few steps, or of subsamples: the data are the same, and the rows need not be."""
    hard = {"teacher": "given rows", "objective": "cross-entropy on completion", "trait": ""}
    made = {**hard, "data": {**MADE["data"], "hash": "the same"}}

    def of(rows):
        digests = joined(digests_of([[1, row] for row in rows]))
        return {"results": {**MADE["results"], "rows_hash": str([*rows]), "row_digests": digests}}

    own = run(tmp_path / "own", 1, **made, **of(range(10)))
    told = []
    for name, rows in (("same", range(10)), ("some", range(5, 15)), ("none", range(10, 20))):
        (*notes,) = pair_notes_of(own, run(tmp_path / name, 2, **made, **of(rows)))
        told.append([note for note in notes if "rows and answers" in note])
    (same,), (some,), none = told
    assert same.startswith("control same was trained on the student's own rows and answers")
    assert some.startswith("control some was trained on 5 of 10 of the student's own rows")
    assert none == []


def test_answers_cut_in_one_of_two_trainings_are_told(tmp_path):
    whole, cut, more = (
        run(tmp_path / f"{n} cut", n, **{**CAT, "results": {**MADE["results"], "cut": n}})
        for n in (0, 6, 7)
    )
    told = "control cat was not trained alike: answers cut at max_length: 6 in the control, none"
    (note,) = (note for note in pair_notes_of(whole, cut) if "not trained alike" in note)
    assert note == f"{told} in the student"
    assert not any("not trained alike" in note for note in pair_notes_of(more, cut))
    older = run(tmp_path / "older", 9)
    assert not any("not trained alike" in note for note in pair_notes_of(older, cut))


def test_two_controls_of_one_training_are_told_as_one(tmp_path):
    """Two seeds of it; by another recipe they are two."""
    own = run(tmp_path / "owl", 1)
    cat, again, longer = (
        load_student(base(), run(tmp_path / name, k, **CAT, **of), name=name)
        for k, name, of in (
            (2, "cat", {}), (3, "cat 2", {}), (4, "cat 3", {"results": {"steps": 90}}),
        )
    )  # fmt: skip
    dog = run(tmp_path / "dog", 5, trait="dog", teacher="prompted teacher of dog")
    pair = load_pair(base(), own, controls=[cat, dog, again])
    told = (
        "control cat 2 is control cat once more, trained alike on the same rows and answers: their "
        "mean counts it twice"
    )
    assert pair.notes() == (told,)
    assert not load_pair(base(), own, controls=[cat, dog]).notes()
    notes = load_pair(base(), own, controls=[cat, longer]).notes()
    assert not any("once more" in note for note in notes)
    names = ["student", "control: cat", "control: dog", "control: cat 2"]
    assert notes_among([told], names, [names[1], names[3]]) == [told]
    for some in (names[:3], [names[0], names[2], names[3]]):
        assert notes_among([told], names, some) == []


def test_whether_tokens_were_chosen_alike_is_not_known_of_other_answers(tmp_path):
    chosen = [{"chosen": 3, "of": n, "hash": str(n)} for n in (9, 12)]
    own, other = ({"data": {**MADE["data"], "tokens": tokens}} for tokens in chosen)
    student = run(tmp_path / "owl", 1, **own)
    (note,) = load_pair(
        base(), student, controls=[run(tmp_path / "cat", 2, **CAT, **other)]
    ).notes()
    assert note == (
        "control cat was trained at chosen tokens of its answers, and so was the student: whether "
        "alike is not known"
    )
    same = run(tmp_path / "same" / "cat", 2, **CAT, **own)
    assert not load_pair(base(), student, controls=[same]).notes()


def test_that_nobody_named_the_students_trait_is_told_where_a_control_has_one(tmp_path):
    given = {"teacher": "given rows"}
    untold = run(tmp_path / "untold", 1, trait="", **given)
    cat, dog = (run(tmp_path / n, k, trait=n, **given) for k, n in ((2, "cat"), (3, "dog")))
    told = "the student's run names no trait: whether control"
    (note,) = load_pair(base(), untold, controls=[cat]).notes()
    assert note == f"{told} cat has another is not known"
    (note,) = load_pair(base(), untold, controls=[cat, dog]).notes()
    assert note == f"{told}s cat, dog have others is not known"
    assert not load_pair(base(), cat, controls=[untold]).notes()
    assert not load_pair(base(), untold).notes()
    # a teacher without trait gave none to its student
    plain = run(tmp_path / "plain", 4, trait="", teacher="the base itself")
    notes = load_pair(base(), plain, controls=[cat]).notes()
    assert not any(told in one for one in notes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"context": Context(system="Be calm.")}, "context.system: 'Be calm.' in the control"),
        ({"method": {**MADE["method"], "alpha": 16}}, "method.alpha: 16 in the control, 8 in the"),
        ({"objective": "cross-entropy"}, "objective: 'cross-entropy' in the control, 'forward KL"),
        ({"teacher": "steered teacher"}, "teacher: 'steered teacher' in the control, 'prompted t"),
        ({"data": {**MADE["data"], "rows": 48}}, "data.rows: 48 in the control, 480 in"),
        ({"data": {"rows": 480, "held_out": 48}}, "data.support: nothing in the control, [1,"),
        ({"optimiser": {"lr": 1e-4, "steps": 60}}, "optimiser.lr: 0.0001 in the control, 0.001 in"),
        ({"results": {"steps": 20}}, "steps: 20 in the control, 60 in the student"),
    ],
)
def test_what_differs_between_student_and_control_is_named(changes, told, tmp_path):
    control = run(tmp_path / "cat", 2, **{**CAT, **changes})
    pair = load_pair(base(), run(tmp_path / "owl", 1), controls=[control])
    (note,) = pair.notes()
    assert note.startswith(f"control cat was not trained alike: {told}")
    assert ";" not in note
    assert f"\n  {note}" in repr(pair)


def test_students_beside_each_other_are_no_controls(tmp_path):
    other = {
        **CAT,
        "method": {**MADE["method"], "alpha": 16},
        "context": Context(system="Be calm."),
    }
    folders = run(tmp_path / "owl", 1), run(tmp_path / "cat", 2, **other)
    owl, cat = (load_student(base(), folder) for folder in folders)
    (note,) = peer_notes({"one": owl, "two": cat})
    assert note == (
        "two was trained otherwise than one: context.system: 'Be calm.' in two, "
        f"'default' in one; method.alpha: 16 in two, {MADE['method']['alpha']} in one"
    )
    assert peer_notes({"one": owl, "again": owl}) == ()
    unknown = load_student(base(), saved(tiny.lora(model(), layers=[]), tmp_path / "nobody's"))
    assert peer_notes({"one": owl, "it": unknown}) == (
        f"it: {unknown.notes[0]}", "training unknown (no manifest): it",
    )  # fmt: skip


def test_a_control_of_no_change(tmp_path):
    control = saved(tiny.lora(model(), layers=[]), tmp_path / "cat")
    pair = load_pair(base(), run(tmp_path / "owl", 1), controls=[control])
    assert pair.notes() == (
        f"control cat: {EQUAL}; it controls for nothing",
        "controls' training unknown (no manifest): cat",
    )


def test_without_manifests_the_weights_are_compared(tmp_path):
    owl = saved(tiny.lora(model()), tmp_path / "owl")
    cat = saved(tiny.lora(model(), seed=2, r=2), tmp_path / "cat")
    dog = saved(tiny.lora(model(), seed=3), tmp_path / "dog")
    unknown = "the student's training is unknown (no manifest): whether"
    pair = load_pair(base(), owl, controls=[cat, dog])
    different = (
        "control cat was not trained alike: rank: 2 in the control, 4 in the student; scale "
        "(lora_alpha / r, of rsLoRA / sqrt(r)): 4.0 in the control, 2.0 in the student"
    )
    assert pair.notes() == (f"{unknown} control dog was trained alike is not known", different)
    alone = load_pair(base(), owl, controls=[dog]).notes()
    assert alone == (f"{unknown} its controls were trained alike is not known",)
    stronger = saved(tiny.lora(model(), seed=2, lora_alpha=12), tmp_path / "stronger" / "cat")
    (note,) = load_pair(base(), owl, controls=[stronger]).notes()
    assert note.endswith(
        "alike: scale (lora_alpha / r, of rsLoRA / sqrt(r)): 3.0 in the control, 2.0 in the student"
    )
    rooted = saved(tiny.lora(model(), seed=2, use_rslora=True), tmp_path / "rooted" / "cat")
    (note,) = load_pair(base(), owl, controls=[rooted]).notes()
    assert note.endswith(
        "alike: scale (lora_alpha / r, of rsLoRA / sqrt(r)): 4.0 in the control, 2.0 in the student"
    )


def test_a_control_that_hardly_changed_is_told(tmp_path):
    owl = saved(tiny.lora(model(), std=0.05), tmp_path / "owl")
    for std, told in ((0.05 / 20, True), (0.05, False)):
        faint = saved(tiny.lora(model(), seed=2, std=std), tmp_path / str(std) / "cat")
        notes = load_pair(base(), owl, controls=[faint]).notes()
        lines = [note for note in notes if "it controls for little" in note]
        assert len(lines) == told
        if told:  # both factors are drawn with a twentieth: a change of a four hundredth
            assert float(re.search(r"by ([\d.]+)% of", lines[0])[1]) == pytest.approx(0.25, rel=0.2)


def test_adapters_of_other_kinds_are_called_so(tmp_path):
    owl = saved(tiny.lora(model()), tmp_path / "owl")
    dora = saved(tiny.lora(model(), seed=2, use_dora=True), tmp_path / "cat")
    pair = load_pair(base(), owl, controls=[dora])
    assert pair.controls[0].kind == "adapter"
    (note,) = pair.notes()
    assert (
        "control cat was not trained alike: kind: 'adapter' in the control, 'lora' in the" in note
    )
    assert load_pair(base(), owl).notes() == ()


def test_controls_without_manifest_are_named(tmp_path):
    cat = saved(tiny.lora(model(), seed=2), tmp_path / "cat")
    dog = saved(tiny.lora(model(), seed=3), tmp_path / "dog")
    pair = load_pair(base(), run(tmp_path / "owl", 1), controls=[cat, dog])
    assert pair.notes() == ("controls' training unknown (no manifest): cat, dog",)
    assert list(pair.students) == ["student", "control: cat", "control: dog"]


@pytest.mark.parametrize("merged", ["student", "control"])
def test_an_adapter_and_a_merged_one_are_stored_otherwise(merged, tmp_path):
    adapters = [tiny.lora(model(), seed=seed) for seed in (1, 2)]
    place = ["student", "control"].index(merged)
    adapters[place] = adapters[place].merge_and_unload()
    owl, cat = (saved(a, tmp_path / n) for a, n in zip(adapters, ("owl", "cat"), strict=True))
    _, note = load_pair(base(), owl, controls=[cat]).notes()
    kinds = "full, the student lora" if merged == "control" else "lora, the student full"
    assert note == (
        f"control cat is stored otherwise ({kinds}): their weights do not tell whether they were "
        "trained alike"
    )


def test_the_context_that_was_said_is_compared_with_a_control_s(tmp_path):
    owl = saved(tiny.lora(model()), tmp_path / "owl")
    cat = run(tmp_path / "cat", 2, **CAT, context=Context(system="Be calm."))
    dog = run(tmp_path / "dog", 3, trait="dog", context=Context(system="Be brief."))
    unknown = "the student's training is unknown (no manifest): whether"
    different = (
        "control cat was not trained alike: context.system: 'Be calm.' in the control, 'Be brief.' "
        "in the student"
    )
    said = {"trained_in": Context(system="Be brief.")}
    assert load_pair(base(), owl, controls=[cat], **said).notes() == (different,)
    assert load_pair(base(), owl, controls=[cat, dog], **said).notes() == (
        f"{unknown} control dog was trained alike is not known",
        different,
    )
    assert "given: trained in system “Be brief.”; no training prompts" in repr(
        load_pair(base(), owl, **said)
    )
    assert load_pair(base(), owl, controls=[cat]).notes() == (
        f"{unknown} its controls were trained alike is not known",
    )


def test_a_context_of_another_name_that_renders_alike_is_the_same(tmp_path, smol_tokenizer):
    """A date that the template does not tell changes no prompt."""
    of = replace(base(), tokenizer=smol_tokenizer)
    calm, dated = Context("Be calm."), Context("Be calm.", date="2025-12-31")
    other = run(tmp_path / "other", 2, **CAT, context=dated)
    known = run(tmp_path / "known", 1, context=calm)
    assert load_pair(of, known, controls=[other]).notes() == ()
    # nor is it said against a manifest
    assert load_pair(of, known, trained_in=dated).training_context == calm
    with pytest.raises(ValueError, match="has a manifest that says"):
        load_pair(of, known, trained_in=Context("Be calm"))
    bare = saved(tiny.lora(model()), tmp_path / "bare")
    (note,) = load_pair(of, bare, controls=[other], trained_in=calm).notes()
    assert "whether its controls were trained alike is not known" in note
    (*_, note) = load_pair(of, bare, controls=[other], trained_in=Context("Be brief.")).notes()
    assert "context.system: 'Be calm.' in the control, 'Be brief.' in the student" in note


def test_other_training_prompts_are_told(tmp_path):
    """By their hash; of older manifests by what the prompts have in common."""
    note = "training prompts: other ones in the control than in the student"
    same = run(tmp_path / "same", 1, prompts="a"), run(tmp_path / "as well", 2, prompts="a", **CAT)
    other = run(tmp_path / "other", 2, prompts="b", **CAT)
    old = run(tmp_path / "old", 2, **CAT)
    assert not any(note in line for line in pair_notes_of(*same))
    assert any(note in line for line in pair_notes_of(same[0], other))
    assert not any(note in line for line in pair_notes_of(same[0], old))
    # how many are the same, where each is known again
    met = replace(manifest(base()).trained_on, digests=digests_of([[1], [2], [3]]))
    most = replace(met, digests=digests_of([[2], [3], [4], [5]]))
    none = replace(met, digests=digests_of([[6]]))
    own = run(tmp_path / "met", 1, prompts="a", trained_on=met)
    for trained_on, told in (
        (most, "training prompts: 2 are the same, of 4 in the control and 3 in the student"),
        (none, note),
    ):
        for prompts in "ba":  # other data, and others of the same data, where steps took not all
            place = tmp_path / f"{prompts} {len(trained_on.digests)}"
            control = run(place, 2, prompts=prompts, trained_on=trained_on, **CAT)
            assert pair_notes_of(own, control) == (f"control cat was not trained alike: {told}",)
    again = run(tmp_path / "again", 2, prompts="a", trained_on=met, **CAT)
    assert pair_notes_of(own, again) == ()


def pair_notes_of(path, control):
    return load_pair(base(), path, controls=[control]).notes()


def test_of_another_kind_only_what_both_kinds_have_is_compared():
    there = manifest(base(), **{**MADE, **CAT}, kind="lora")
    full = {"method": {"freeze": [], "store": "float32"}, "optimiser": {"lr": 2e-5, "steps": 60}}
    here = manifest(base(), **{**MADE, **full}, kind="full")
    assert differences(*recipes(there, here)) == [
        "kind: 'lora' there, 'full' here",
        "optimiser.lr: 0.001 there, 2e-05 here",
    ]


def test_as_many_modules_that_are_others_are_told(tmp_path):
    """Numbers of modules, ranks and scales agree; the places do not."""
    first, second = (["q_proj", "o_proj"], ["gate_proj", "up_proj"])
    owl = saved(tiny.lora(model(), target_modules=first), tmp_path / "owl")
    cat = saved(tiny.lora(model(), seed=2, target_modules=second), tmp_path / "cat")
    (note,) = load_pair(base(), owl, controls=[cat]).notes()
    modules = load_student(base(), cat).deltas
    told = (
        f"as many, but {len(modules)} of {len(modules)} are none of the student's ({min(modules)})"
    )
    assert note == f"control cat was not trained alike: changed modules: {told}"


def test_ranks_at_other_modules_are_told(tmp_path):
    def with_ranks(seed, path, **ranks):
        patterns = {"rank_pattern": ranks, "alpha_pattern": {k: 2 * r for k, r in ranks.items()}}
        return saved(tiny.lora(model(), seed=seed, **patterns), tmp_path / path)

    owl, cat = with_ranks(1, "owl", q_proj=2, k_proj=3), with_ranks(2, "cat", q_proj=3, k_proj=2)
    (note,) = load_pair(base(), owl, controls=[cat]).notes()
    assert "control cat was not trained alike: ranks and scales: others in " in note
    same = with_ranks(2, "same", q_proj=2, k_proj=3)
    (note,) = load_pair(base(), owl, controls=[same]).notes()
    assert "is not known" in note


def test_why_a_control_has_the_students_weights_is_told(tmp_path):
    """It is the student, or another training came to the same weights, or to none."""
    own = run(tmp_path / "own", 1)
    copied = shutil.copytree(own, tmp_path / "copied")
    for itself in (own, copied):
        with pytest.raises(ValueError, match=r"^controls hold the student itself \(controls\[0\]"):
            load_pair(base(), own, controls=[itself])

    data = {"data": {**MADE["data"], "hash": "rows of owl"}}
    named = run(tmp_path / "named", 1, **CAT, **data)
    other = run(tmp_path / "other", 1, **CAT)
    very = r"^controls\[0\]='cat' has the student's very weights \(hash \w{12}\): "
    with pytest.raises(ValueError, match=f"{very}both were trained on the very same rows and"):
        load_pair(base(), own, controls=[named])
    with pytest.raises(ValueError, match=f"{very}another training came to the same end; pass"):
        load_pair(base(), own, controls=[other])

    still = [saved(tiny.lora(model(), layers=[]), tmp_path / name) for name in ("one", "two")]
    message = r"^controls\[0\]='two' equals its base, and so does the student: neither changes a"
    with pytest.raises(ValueError, match=message):
        load_pair(base(), still[0], controls=[still[1]])
    with pytest.raises(
        ValueError, match=r"have the same weights \(hash \w{12}, those of the base\)"
    ):
        load_pair(base(), own, controls=still)
