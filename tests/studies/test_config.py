"""Configurations: what is refused, and that files give back what was written."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tiny
from small_studies import R2, small_study

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.prompts import render
from sublim_mech.studies import Asking, Computing, Method, Part, Study, Training, making
from sublim_mech.studies.built_in import PRESETS


def part(**options):
    return Part(**{"name": "p", "methods": [R2], **options})


LISBON = sm.Trait("Lisbon", forms=["Lisbon", "Lisboa"], questions=["Which city?"], sentence="Oh!")
LYNX = sm.Trait.noun("lynx", plural="lynxes", aliases="bobcat", category="animal")
OWN = small_study(
    "base",
    part(labels=(2.0, "plain"), row_seeds=(3, 4), scores=["graft"]),
    traits=[LISBON, LYNX, sm.animal("owl"), sm.prompts.tree("oak")],
    focus=("Lisbon", "owl"),
    contexts={
        "default": sm.Context(),
        'a "name" = odd\n': sm.Context(system='Say "é\x7f".\n\tNow.', user_prefix="Hi. "),
        "thinking": sm.Context(options={"enable_thinking": False}, date="2024-12-31"),
        "spelled": sm.Context(system="none", literal=True),
        "raw": sm.RAW,
    },
    computing=Computing(threads=2, dtype="bfloat16"),
)


@pytest.mark.parametrize("ending", [".json", ".toml"])
@pytest.mark.parametrize("study", [*(make() for make in PRESETS.values()), OWN], ids=str)
def test_files_give_back_what_was_written(study, ending, tmp_path):
    studies.write_study(study, tmp_path / f"study{ending}")
    again = studies.read_study(tmp_path / f"study{ending}")
    assert again == study
    assert Study.from_dict(json.loads(json.dumps(study.to_dict()))) == study


def nested(path, key, value=1):
    """The written form of a study with one more key somewhere."""
    data = json.loads(json.dumps(OWN.to_dict() | {"rows": {}, "training": {}, "asking": {}}))
    place = data
    for step in path:
        place = place[step]
    place[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "key", "meant"),
    [
        ([], "trait", "traits"),
        (["parts", 0], "row_seed", "row_seeds"),
        (["parts", 0, "methods", 0], "rank", "ranks"),
        (["rows"], "counts", "count"),
        (["training"], "per_device_train_batch_size", "batch_size"),
        (["asking"], "sample", "samples"),
        (["computing"], "thread", "threads"),
        (["contexts", "thinking"], "sytem", "system"),
        (["traits", 0], "form", "forms"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(path, key, meant):
    with pytest.raises(ValueError, match=rf"no key '{key}'; did you mean '{meant}'"):
        Study.from_dict(nested(path, key))


REFUSED = {
    "method: kind": (lambda: Method(kind="lorra"), "did you mean 'lora'"),
    "method: rank": (lambda: Method(ranks=[0]), "rank must be at least 1"),
    "method: no ranks": (lambda: Method(ranks=[]), "ranks is empty"),
    "method: alpha": (lambda: Method(alpha="rnak"), "did you mean 'rank'"),
    "method: rate": (lambda: Method(lrs=[0.0]), "learning rates are above 0"),
    "method: warmup": (lambda: Method(steps=4, warmup=4), "warm-up ends before"),
    "method: snapshot": (lambda: Method(steps=8, snapshots=[8]), "not below the last"),
    "method: freeze": (lambda: Method(freeze=["norms"]), "no option of 'lora'"),
    "method: full": (lambda: Method(kind="full", ranks=[4]), "ranks is no option of 'full'"),
    "part: no seeds": (lambda: part(row_seeds=()), "row_seeds is empty, so the grid has no runs"),
    "part: twice": (lambda: part(row_seeds=(1, 2, 1)), "row_seeds has 1 twice"),
    "part: seed": (lambda: part(training_seeds=(-1,)), "below 0"),
    "part: label": (lambda: part(labels=("plane",)), "did you mean 'plain'"),
    "part: c": (lambda: part(labels=(0.0,)), "c of contrastive labels is above 0"),
    "part: scores": (lambda: part(scores=("graft_Ig",)), "did you mean 'graft_ig'"),
    "part: where": (lambda: part(where=("shraed",)), "did you mean 'shared'"),
    "part: twin": (
        lambda: part(methods=[R2, Method(kind="full", stop_with="r22")]),
        "did you mean 'r2'",
    ),
    "part: two twins": (
        lambda: part(methods=[Method(name="r", ranks=[1, 2]), Method(name="s", stop_with="r")]),
        "several ranks",
    ),
    "study: no parts": (lambda: dataclasses.replace(OWN, parts=()), "nothing to run"),
    "study: parts": (lambda: small_study("b", part(), part()), "two parts are called 'p'"),
    "study: focus": (lambda: small_study("b", focus=["owls"]), "did you mean 'owl'"),
    "study: context": (
        lambda: small_study("b", part(evaluated_in=["defualt"])),
        "did you mean 'default'",
    ),
    "study: contexts": (
        lambda: small_study("b", contexts={"default": sm.Context(), "d": sm.Context()}),
        "'default' and 'd' are the same",
    ),
    "study: contrast": (
        lambda: small_study("b", traits=[sm.animal("owl")], focus=[]),
        "at least two traits",
    ),
    "kind": (lambda: Part(name="p", row_seeds=[0.5]), "pass"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name):
    make, says = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=says):
        make()


def test_a_file_that_does_not_parse_is_named(tmp_path):
    (tmp_path / "s.toml").write_text("name = ")
    with pytest.raises(ValueError, match=r"s\.toml' cannot be read"):
        studies.read_study(tmp_path / "s.toml")
    with pytest.raises(FileNotFoundError, match="no such file"):
        studies.read_study(tmp_path / "t.toml")
    with pytest.raises(ValueError, match=r"\.json or \.toml"):
        studies.write_study(OWN, tmp_path / "s.yaml")


def test_toml_that_does_not_parse_is_told_with_its_line(tmp_path):
    for text, line in (
        ('name = "a"\nbase 7\n', "line 2"),
        ('name = "a"\nbase = [1,\n2\n', "line 2 begins is not closed: 'base = [1,'"),
        ('name = "a"\n\nbase = """x\n', "line 3 begins is not closed"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ValueError, match=line.replace("[", r"\[")):
            studies.read_study(tmp_path / "bad.toml")


def test_messages_end_their_sentences():
    with pytest.raises(ValueError, match=r"there is no 'zzz'\. There is"):
        small_study("base", part(evaluated_in=["zzz"]))
    with pytest.raises(ValueError, match=r"Method\(alpha='ranks'\): a number, or 'rank'"):
        Method(alpha="ranks")


@pytest.mark.parametrize(
    ("method", "message"),
    [({"ranks": [9999]}, r"LoRA\(rank=9999\)"), ({"targets": "q_prj"}, "q_prj")],
)
def test_plan_refuses_what_training_refuses(method, message, smol_tokenizer):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    study = small_study("base", part(methods=[Method(**method)]))
    with pytest.raises(ValueError, match=message) as of_training:
        study.parts[0].methods[0].made(study.parts[0].methods[0].ranks[0]).check(base)
    with pytest.raises(ValueError, match=message) as of_plan:
        studies.plan(study, base=base)
    assert str(of_plan.value).endswith(str(of_training.value))
    studies.plan(small_study("base"), base=base)


def test_a_study_that_no_teacher_can_be_made_for_is_refused_before_it_is_run():
    mute = sm.Trait("Lisbon", questions=["Which city?"])
    with pytest.raises(ValueError, match="trait 'Lisbon' has no sentence for its teacher; give it"):
        small_study("base", part(), traits=[mute, sm.animal("owl")], focus=["owl"])
    raw = {"contexts": {"raw": sm.RAW, "default": sm.Context()}}
    with pytest.raises(ValueError, match="trained_in: 'raw' is raw text"):
        small_study("base", part(trained_in=["raw"], evaluated_in=["default"]), **raw)
    small_study("base", part(evaluated_in=["raw"]), **raw)


def test_questions_of_a_chat_are_no_texts_to_continue():
    """As `evaluate` has it; a study that says what is asked there may ask it."""
    raw = {"contexts": {"raw": sm.RAW, "default": sm.Context()}}
    with pytest.raises(ValueError, match=r"evaluated_in: 'raw' is raw text.*Asking\(questions="):
        small_study("base", part(evaluated_in=["raw"]), asking=Asking(), **raw)
    meant = Asking(questions=sm.animal("owl").questions)
    small_study("base", part(evaluated_in=["raw"]), asking=meant, **raw)
    small_study("base", part(), asking=Asking(), **raw)


def test_copies_that_a_template_makes_are_refused_by_their_prompts(smol_tokenizer, monkeypatch):
    study = small_study("base", asking=Asking(questions=["Which?", "Which one?", "Which? "]))
    making.check_questions(study, smol_tokenizer)
    prompts = render(smol_tokenizer, [one.strip() for one in study.questions])
    monkeypatch.setattr("sublim_mech.studies.making.render", lambda *_, **__: prompts)
    with pytest.raises(
        ValueError, match=r"'Which\?' and 'Which\? ' are the same prompt in context"
    ):
        making.check_questions(study, smol_tokenizer)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Training(batch_size=0), "Training: batch_size=0: must be at least 1"),
        (lambda: Training(precision="fp16"), "Training: precision='fp16': pass 'bf16' or 'fp32'"),
        (lambda: Training(schedule="step"), "Training: schedule='step' is none of linear, cosine"),
        (lambda: Training(clip=0.0), "Training: clip=0.0: must be above 0"),
        (lambda: Asking(shared=["shred"]), "shared='shred' is none of .*did you mean 'shared'"),
        (lambda: Asking(samples=5, temperature=-1.0), "Asking: temperature=-1.0 with samples=5: "),
        (lambda: Asking(samples=2, temperature=0.0), "Asking: temperature=0.0 .* gives one answer"),
        (lambda: Asking(samples=1, max_new_tokens=0), "Asking: max_new_tokens=0: an answer has"),
        (lambda: Asking(questions=["a", "b", "a"]), r"number 3 is number 1 once more \('a'\)"),
        (
            lambda: part(methods=[Method(name="a", stop_with="a"), Method(name="b")]),
            r"does not wait for one itself\. There is b\.$",
        ),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(made, said):
    with pytest.raises(ValueError, match=said):
        made()


def test_files_of_other_editors_are_read_or_told(tmp_path):
    file = tmp_path / "study.toml"
    studies.write_study(OWN, file)
    text = file.read_text("utf-8")
    file.write_text(text, "utf-8-sig")
    assert studies.read_study(file) == OWN
    file.write_text(text, "utf-16")
    with pytest.raises(ValueError, match=r"path='.*' cannot be read: it is no UTF-8 text"):
        studies.read_study(file)
    for text in ("", 'name = "mine"'):
        file.write_text(text)
        with pytest.raises(ValueError, match="a study has a name, traits and parts at least"):
            studies.read_study(file)


def test_no_more_questions_are_scored_than_are_asked():
    few = Asking(questions=["Which animal?", "Name one."])
    assert small_study("few", part(), asking=few).asking.scored == 12, "the usual: at most"
    with pytest.raises(ValueError, match=r"Asking\(scored=40\) is more than the 2 questions"):
        small_study("few", part(), asking=dataclasses.replace(few, scored=40))
    with pytest.raises(ValueError, match=r"Asking\(scored=51\) is more than the 50 questions"):
        small_study("fifty", part(), asking=Asking(scored=51))
    assert small_study("fifty", part(), asking=Asking(scored=50)).asking.scored == 50
