"""Students that are asked for another trait than they were made for say so, by their manifests."""

from __future__ import annotations

import shutil

import pytest
from matplotlib.text import Text

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def folders(made):
    """Of each trait a student's folder."""
    rows = made.rows[(made.rows["part"] == "scored") & (made.rows["method"] == "r2")]
    named = rows.set_index("trait")["student"]
    return {trait: made.out / "students" / name for trait, name in named.items()}


@pytest.fixture(scope="module")
def pair(folders, base_folder):
    """An owl student, its control of cats."""
    return sm.load_pair(base_folder, folders["owl"], controls=[folders["cat"]])


@pytest.fixture(scope="module")
def prompts(pair):
    return sm.render(pair, ["Which animal?", "Your favorite animal?"])


def asked(scores):
    return [note for note in scores.notes() if note.startswith("asked for")]


def test_another_trait_than_the_students_own_is_told_in_scores(pair, prompts):
    owl, cat, dog = map(sm.animal, ("owl", "cat", "dog"))
    assert not asked(sm.effect(pair, prompts, owl, **QUIET))
    assert not asked(sm.effect(pair, prompts, sm.Trait("bird", forms=["owl", "bird"]), **QUIET))
    (told,) = asked(sm.effect(pair, prompts, dog, **QUIET))
    assert told == (
        "asked for dog, and the student was made for owl: no student here was made for it, as far "
        "as manifests say"
    )
    (told,) = asked(sm.effect(pair, prompts, cat, **QUIET))
    control = pair.controls[0].name
    assert (
        told
        == f"asked for cat, and the student was made for owl: cat is the trait of control {control}"
    )
    assert told in repr(sm.effect(pair, prompts, cat, **QUIET))
    (told,) = asked(sm.effect(pair, prompts, sm.Trait("OWL"), **QUIET))
    assert told.startswith("asked for OWL, and the student was made for owl: the same in other")
    assert told.endswith("owl itself is not scored")
    # of own - others the first one counts
    others = sm.metrics.own_minus_others
    assert not asked(sm.effect(pair, prompts, others(owl, [cat]), **QUIET))
    assert asked(sm.effect(pair, prompts, others(cat, [owl]), **QUIET))
    assert not asked(sm.effect(pair, prompts, sm.metrics.entropy(), **QUIET))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_control_that_has_what_an_unknown_student_is_asked_for_is_told(
    pair, prompts, folders, base_folder, tmp_path
):
    owl, cat, dog = map(sm.animal, ("owl", "cat", "dog"))
    bare = tmp_path / "bare"
    shutil.copytree(folders["owl"], bare, ignore=shutil.ignore_patterns("manifest.json"))
    control = pair.controls[0]
    unknown = sm.load_pair(base_folder, bare, controls=[control])
    short = f"control {control.name} has the trait that is asked for"
    told = (
        f"{short} (cat), and no manifest names the student's own: what the control has of it is "
        "taken off the student"
    )
    scores = sm.attribute(unknown, prompts, cat, points=2, **QUIET)
    assert told in scores.notes()
    assert f"{short[0].upper()}{short[1:]}." in repr(sm.concentration(scores, on="template"))
    said = " ".join(text.get_text() for text in scores.plot(by="role").figure.findobj(Text))
    assert short in " ".join(said.split())
    assert told not in scores.sel(model="student").notes()
    # of several, the student's own may be the one that no control has
    questions = ["Which animal?", "Your favorite animal?"]
    assert told in repr(sm.evaluate(unknown, [cat], questions=questions, **QUIET))
    assert short not in repr(sm.evaluate(unknown, [owl, cat], questions=questions, **QUIET))
    for trait in (owl, dog):
        assert short not in repr(sm.effect(unknown, prompts, trait, **QUIET))
    assert short not in repr(sm.effect(pair, prompts, cat, **QUIET))


def test_a_concentration_says_that_another_trait_was_asked_for(pair, prompts):
    scores = sm.attribute(pair, prompts, sm.animal("cat"), points=2, **QUIET)
    said = repr(sm.concentration(scores, on="template"))
    assert "Asked for cat, and the student was made for owl: cat is the trait" in said


def test_exchanged_traits_are_told_in_the_matrix_and_by_evaluations(pair, tmp_path):
    traits = [sm.animal(name) for name in ("owl", "cat", "dog")]
    questions = ["Which animal?", "Your favorite animal?"]
    evaluation = sm.evaluate(pair, traits, questions=questions, **QUIET)
    assert "asked for" not in repr(evaluation)
    assert "asked for dog" in repr(sm.evaluate(pair, traits[2:], questions=questions, **QUIET))
    student, control = evaluation.data["model"].values.tolist()[1:]
    right, exchanged = {student: "owl", control: "cat"}, {student: "cat", control: "owl"}
    where, few = evaluation.trait_matrix(right).notes
    assert few.startswith("2 questions: intervals over so few")
    assert where == "asked in: default system prompt; trained in: default system prompt"
    assert "made for" not in repr(evaluation.trait_matrix(right))
    evaluation.save(tmp_path / "e.safetensors")
    for one in (evaluation, Evaluation.load(tmp_path / "e.safetensors")):
        told = repr(one.trait_matrix(exchanged))
        assert f"{student} was made for owl, and stands for cat here" in told
        assert f"{control} was made for cat, and stands for owl here" in told
    other = {student: "owl", control: "dog"}
    assert len(evaluation.trait_matrix(other).notes) == 3
    # files of earlier versions do not know
    evaluation.provenance.pop("made_for")
    assert evaluation.trait_matrix(exchanged).notes == (where, few)
