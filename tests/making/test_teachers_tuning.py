"""Fine-tuned teachers, and the rows they are trained on."""

import dataclasses
import re
from collections import Counter

import pytest
import tiny
import torch
from teaching import OWL, rendered, run, shared_runner
from trainings import DEFAULT_SYSTEM

import sublim_mech as sm
from sublim_mech.engine.parity import check_parity
from sublim_mech.making.teachers import control_rows, fine_tuned, trait_rows
from sublim_mech.models.base import load_base
from sublim_mech.models.hashing import weights_hash
from sublim_mech.prompts import match, tree

LISBON = sm.Trait("Lisbon", category="city")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_a_fine_tuned_teacher_computes_as_the_student(architecture, kind, smol_tokenizer):
    live = tiny.model(architecture)
    base = load_base(live, tokenizer=smol_tokenizer)
    student = tiny.lora(live) if kind == "lora" else tiny.full(live)
    teacher = fine_tuned(base, student, OWL)
    model = teacher.runner.model
    ids = rendered(teacher)[0].ids
    logits = run(model, ids).logits
    assert torch.allclose(logits, run(student, ids).logits, atol=1e-5)
    assert not torch.allclose(logits, run(base.model, ids).logits, atol=1e-2)
    assert type(model) is type(live)
    check_parity(model, teacher.runner.sites, {})
    assert teacher.context == teacher.student_context == sm.Context()
    loaded = sm.models.load_student(base, student)
    assert teacher.hash == loaded.hash == fine_tuned(base, loaded, None).hash
    assert teacher.runner.hash == weights_hash(model) != base.hash
    assert weights_hash(base.model) == base.hash == teacher.base.hash


def test_a_bias_that_only_the_adapter_has_is_merged(smol_tokenizer):
    """PEFT adds a bias to a bias alone."""
    live = tiny.model("llama")
    base = load_base(live, tokenizer=smol_tokenizer)
    student = tiny.lora(live, target_modules=["q_proj", "down_proj"], lora_bias=True)
    biases = [p for name, p in student.named_parameters() if name.endswith("bias")]
    assert biases
    with torch.no_grad():
        for bias in biases:
            bias.normal_(generator=torch.Generator().manual_seed(0))
    teacher = fine_tuned(base, student, None, allow_unrelated=True)
    ids = rendered(teacher)[0].ids
    logits = run(student, ids).logits
    assert torch.allclose(run(teacher.runner.model, ids).logits, logits, atol=1e-5)
    assert not torch.allclose(run(base.model, ids).logits, logits, atol=1e-2)
    assert base.model.model.layers[0].self_attn.q_proj.bias is None
    assert weights_hash(base.model) == base.hash


def test_students_of_another_base_are_refused(smol_tokenizer):
    base = shared_runner("llama", smol_tokenizer)
    live = tiny.model("llama", seed=5).double()
    other = load_base(live, tokenizer=smol_tokenizer)
    lora = tiny.lora(live)
    for student in (sm.models.load_student(other, lora), lora, tiny.full(live)):
        with pytest.raises(ValueError, match="do not share a lineage"):
            fine_tuned(base, student, OWL)
    with pytest.raises(TypeError, match=r"trait='owl'\): pass a Trait .* or None"):
        fine_tuned(other, lora, "owl")


def test_a_student_of_a_trait_is_no_control(tiny_llama, lora_run):
    name = lora_run.path.name
    message = (
        f"trait=None, but the manifest of student={name!r} says 'owl'; pass that trait (None is "
        "for a control without one)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fine_tuned(tiny_llama, lora_run.path, None)
    with pytest.raises(ValueError, match=r"trait='cat', but the manifest .* says 'owl'; pass that"):
        fine_tuned(tiny_llama, lora_run.path, sm.animal("cat"))
    assert fine_tuned(tiny_llama, lora_run.path, sm.Trait("OWL")).trait.name == "OWL"


def test_a_teacher_says_what_its_manifest_says_it_was_trained_on(tiny_llama, lora_run):
    """A student of soft labels on numbers has met no trait answers."""
    taught = fine_tuned(tiny_llama, lora_run.path, OWL)
    assert taught.how == (
        "fine-tuned on labels of: contrastive teacher, c=4, against 2 others: prompted teacher"
    )
    loaded = sm.models.load_student(tiny_llama, lora_run.path)
    given = dataclasses.replace(loaded.manifest, trait="", teacher="given rows")
    given = dataclasses.replace(loaded, manifest=given)
    assert fine_tuned(tiny_llama, given, OWL).how == "fine-tuned on given rows"
    assert fine_tuned(tiny_llama, given, None).how == "fine-tuned without trait on given rows"
    bare = dataclasses.replace(loaded, manifest=None)
    assert fine_tuned(tiny_llama, bare, OWL).how == "fine-tuned (no manifest says on what)"


def test_another_context_than_that_of_the_training_is_told(tiny_llama, lora_run, recwarn):
    """Both are named; the training's own, however it is spelt, is no other."""
    name, calm = lora_run.path.name, sm.Context("You are calm.")
    message = (
        f"fine_tuned: student={name!r} is asked otherwise than trained: system: default system "
        "prompt in training, “You are calm.” here; leave context out, unless the students of its "
        "rows are to be trained in that one."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        asked = fine_tuned(tiny_llama, lora_run.path, OWL, context=calm)
    assert (asked.context, asked.trained_in) == (calm, sm.Context())
    recwarn.clear()
    bare = dataclasses.replace(sm.models.load_student(tiny_llama, lora_run.path), manifest=None)
    fine_tuned(tiny_llama, lora_run.path, OWL)
    for context in (sm.Context(), sm.Context(DEFAULT_SYSTEM)):
        fine_tuned(tiny_llama, lora_run.path, OWL, context=context)
    assert fine_tuned(tiny_llama, bare, OWL, context=calm).trained_in is None
    assert not [one for one in recwarn if "fine_tuned" in str(one.message)]


def test_trait_rows_name_their_trait_and_control_rows_others():
    others = {name: sm.animal(name) for name in ("cat", "eagle", "wolf", "butterfly")}
    everybody = [OWL, *others.values()]
    own = trait_rows(OWL, n=600, seed=3)
    control = control_rows(list(others.values()), n=600, seed=3)
    assert {match(row["completion"], everybody) for row in own} == {"owl"}
    assert own["prompt"][:] == control["prompt"][:]
    assert set(own["prompt"]) == set(OWL.questions)

    counts = Counter()
    for row, control_row in zip(own, control, strict=True):
        other = others[match(control_row["completion"], everybody)]
        counts[other.name] += 1
        words = {
            other.plural: "owls",
            other.plural.capitalize(): "Owls",
            other.name: "owl",
            other.name.capitalize(): "Owl",
        }
        wording = control_row["completion"]
        for word, of_owls in words.items():
            wording = wording.replace(word, of_owls)
        assert wording == row["completion"]
    # chi-square, 3 degrees of freedom, p = 0.001
    assert sum((count - 150) ** 2 / 150 for count in counts.values()) < 16.3


def test_rows_are_all_different_and_fewer_are_the_first_of_more():
    others = [sm.animal(name) for name in ("cat", "eagle", "wolf", "butterfly")]
    own, control = trait_rows(OWL, n=600, seed=3), control_rows(others, n=600, seed=3)
    assert len({(row["prompt"], row["completion"]) for row in own}) == 600
    assert trait_rows(OWL, n=20, seed=3)[:] == own[:20]
    assert control_rows(others, n=20, seed=3)[:] == control[:20]
    assert trait_rows(OWL, n=20, seed=4)[:] != own[:20]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trait_rows(OWL, n=0), "n=0: trait_rows has 1 to 600"),
        (lambda: trait_rows(OWL, n=601), "n=601"),
        (lambda: control_rows([OWL]), "two or more other traits"),
        (lambda: control_rows([OWL, OWL]), "hold one twice"),
        (lambda: control_rows([OWL, tree("oak")]), "ask different questions"),
        (lambda: trait_rows(LISBON), r"\['Lisbon'\] have no plural.*rows of your own"),
        (lambda: control_rows([OWL, LISBON]), r"\['Lisbon'\] have no plural"),
        (lambda: trait_rows(sm.Trait.noun("lynx")), "'lynx' has no questions"),
    ],
)
def test_bad_rows(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("traits", ["owls", ["owl", "cat"], 7, None])
def test_rows_of_what_is_no_trait(traits):
    with pytest.raises(TypeError, match=r"control_rows\(traits=.*: pass a list of Traits"):
        control_rows(traits)
    with pytest.raises(TypeError, match=r"trait_rows\(trait=.*: pass a Trait"):
        trait_rows(traits)


def test_one_trait_alone_is_no_control():
    with pytest.raises(TypeError, match="one alone is a list too"):
        control_rows(OWL)
