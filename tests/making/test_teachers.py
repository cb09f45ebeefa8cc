"""Teachers: three kinds with their controls against plain transformers models, and sampling against plain generation."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from test_instruments import brute_force

import sublim_mech as sm
from sublim_mech.engine import decoding
from sublim_mech.making.numbers import write_rows
from sublim_mech.making.teachers import (
    control_rows,
    fine_tuned,
    neutral,
    prompted,
    randomly_steered,
    sample,
    sampler,
    steered,
    steering_vectors,
    trait_rows,
    untouched,
)
from sublim_mech.making.teachers.sampling import sample_ids
from sublim_mech.models.base import load_base
from sublim_mech.models.copies import twin
from sublim_mech.models.hashing import weights_hash
from sublim_mech.prompts import ANIMALS, match, tree

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
OWL = sm.animal("owl")
QUESTIONS = ("Which animal?", "Name one animal, please.", "And now, in a single word: which of all animals do you like best?")
ARCHITECTURES = tuple(tiny.CONFIGS)


def make_base(architecture, tokenizer, dtype=torch.float64):
    return load_base(tiny.model(architecture).to(dtype), tokenizer=tokenizer)


@pytest.fixture(params=ARCHITECTURES, scope="module")
def base(request, smol_tokenizer):
    return make_base(request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def llama(smol_tokenizer):
    return make_base("llama", smol_tokenizer)


def ids_of(teacher, prompts, **options):
    options = {"n": 1, "max_new_tokens": 8, "temperature": 1.0, "seed": 0, "batch_size": 128, **options}
    return sample_ids(teacher, prompts, **options)[1]


def rendered(teacher, questions=QUESTIONS):
    return sm.render(teacher.base.tokenizer, questions, context=teacher.context)


def blocks(model):
    """The block list, found without the library."""
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == tiny.LAYERS)


def logits(model, ids, **options):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **options)


# ---------------------------------------------------------------------------------------------------------- sampling


def test_greedy_answers_are_the_models_own_generation(base, monkeypatch):
    teacher = prompted(base, OWL)
    seen, choose = [], decoding._choose
    monkeypatch.setattr(decoding, "_choose", lambda x, rows, *rest: (seen.append(x[rows]), choose(x, rows, *rest))[1])
    ours = ids_of(teacher, QUESTIONS, temperature=0.0, max_new_tokens=12)
    for row, (prompt, (mine,)) in enumerate(zip(rendered(teacher), ours, strict=True)):  # from the shortest to the longest
        plain = logits(base.model, [*prompt.ids, *mine[:-1]]).logits[0, len(prompt) - 1 :]
        error = (torch.stack([step[row] for step in seen]) - plain).abs().max()
        assert error < 1e-6  # eager attention (Gemma-2) takes its softmax in fp32
        ids = torch.tensor([prompt.ids])
        theirs = base.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert mine == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "neox"])
def test_answers_depend_neither_on_batches_nor_on_company(architecture, smol_tokenizer):
    base = make_base(architecture, smol_tokenizer)
    teacher = untouched(base)
    options = {"n": 3, "temperature": 0.3, "seed": 7, "max_new_tokens": 8}
    free = ids_of(teacher, QUESTIONS, **options)
    common = Counter(token for answers in free for answer in answers for token in answer)
    ended = dataclasses.replace(base, model=twin(base.model))
    ended.model.generation_config.eos_token_id = [2, *list(common)[3::9]]  # so that rows leave the batch at different steps
    teacher = untouched(ended)
    whole = ids_of(teacher, QUESTIONS, **options)
    assert len({len(answer) for answers in whole for answer in answers}) > 2
    for batch_size in (1, 3, 8):
        assert ids_of(teacher, QUESTIONS, batch_size=batch_size, **options) == whole
    assert ids_of(teacher, QUESTIONS[::-1], batch_size=5, **options) == whole[::-1]
    assert [ids_of(teacher, [q], **options)[0] for q in QUESTIONS] == whole
    assert [answers[:2] for answers in whole] == ids_of(teacher, QUESTIONS, **options | {"n": 2})
    ends = set(ended.model.generation_config.eos_token_id)
    for before, after in zip(*([a for mine in x for a in mine] for x in (free, whole)), strict=True):
        stop = next((i + 1 for i, token in enumerate(before) if token in ends), len(before))
        assert after == before[:stop]  # what stops a row changes nothing before it


def test_a_prompt_listed_twice_gets_further_samples(llama):
    teacher = untouched(llama)
    one, other = ids_of(teacher, [QUESTIONS[0]] * 2, n=3)
    assert one + other == ids_of(teacher, QUESTIONS[:1], n=6)[0]
    assert not {tuple(x) for x in one} & {tuple(x) for x in other}


def test_seeds(llama):
    teacher = untouched(llama)
    state = torch.random.get_rng_state()
    found = ids_of(teacher, QUESTIONS, seed=1)
    assert found == ids_of(teacher, QUESTIONS, seed=1)
    assert not any(a == b for a, b in zip(found, ids_of(teacher, QUESTIONS, seed=2), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def surprise(tokens, p):
    """Chi-square of tokens against probabilities, in standard deviations; rare tokens make one class."""
    expected = len(tokens) * p
    often = (expected > 5).nonzero()[:, 0].tolist()
    pairs = [(tokens.count(t), float(expected[t])) for t in often]
    pairs.append((len(tokens) - sum(s for s, _ in pairs), len(tokens) - sum(e for _, e in pairs)))
    assert len(pairs) > 4
    assert pairs[-1][1] > 5
    statistic, freedom = sum((s - e) ** 2 / e for s, e in pairs), len(pairs) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_tokens_follow_the_models_probabilities(llama):
    """First tokens of 2,000 answers, and second ones behind the commonest first, against the softmax of plain forwards."""
    teacher, temperature = untouched(llama), 0.025
    (answers,) = ids_of(teacher, QUESTIONS[:1], n=2000, temperature=temperature, max_new_tokens=2, batch_size=500, seed=3)
    prompt = list(rendered(teacher)[0].ids)
    first = logits(llama.model, prompt).logits[0, -1]
    assert abs(surprise([a[0] for a in answers], (first / temperature).softmax(-1))) < 3
    top = int(first.argmax())
    behind = [a[1] for a in answers if a[0] == top]
    second = logits(llama.model, [*prompt, top]).logits[0, -1]
    assert abs(surprise(behind, (second / temperature).softmax(-1))) < 3


def test_half_precision_and_text(smol_tokenizer):
    """In bf16 too an answer ends where the turn does, and its text has no special tokens."""
    base = make_base("qwen2", smol_tokenizer, torch.bfloat16)
    teacher = untouched(base)
    (ids,) = ids_of(teacher, QUESTIONS[:1], max_new_tokens=6)[0]
    base.model.generation_config.eos_token_id = ids[3]
    assert ids_of(teacher, QUESTIONS[:1], max_new_tokens=6)[0][0] == ids[:4]
    assert (
        sample(teacher, QUESTIONS[:1], max_new_tokens=6)[0][0]
        == smol_tokenizer.decode(ids[:3], skip_special_tokens=True).strip()
    )


def test_the_templates_end_of_turn_ends_an_answer(dressed):
    """Gemma's end of turn is not its tokenizer's end of sequence."""
    tokenizer = dressed("gemma3")
    mark = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    live = tiny.model("gemma3").double()
    live.resize_token_embeddings(len(tokenizer))
    base = load_base(live, tokenizer=tokenizer)
    assert mark not in (tokenizer.eos_token_id, base.model.generation_config.eos_token_id)
    ends = sample_ids(untouched(base), ["Hi"], n=1, max_new_tokens=1, temperature=0.0, seed=0, batch_size=1)[0]
    assert mark in ends


def test_a_sampler_writes_rows(llama):
    teacher = prompted(llama, OWL)
    write = sampler(teacher, max_new_tokens=3, temperature=0.5)
    assert write(list(QUESTIONS), 4) == [a for (a,) in sample(teacher, QUESTIONS, max_new_tokens=3, temperature=0.5, seed=4)]
    with pytest.raises(RuntimeError, match=r"0 of .* answers passed"):  # a random model writes no numbers
        write_rows(write, 2, seed=0, max_attempts=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: pass a whole number, at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 500}, "positions, the model has 256"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 0.0, "n": 2}, "greedy"),
        ({"seed": -1}, "seed=-1: pass a whole number, at least 0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_sampling(options, message, llama):
    with pytest.raises(ValueError, match=message):
        sample(untouched(llama), QUESTIONS, **options)


def test_logits_that_are_no_numbers_are_refused(llama):
    vectors = np.full((1, 32), 1e200)
    with pytest.raises(ValueError, match="logits are not finite"):
        sample(steered(llama, OWL, layers=[1], vectors=vectors, scale=1e100), QUESTIONS)


# ---------------------------------------------------------------------------------------------------------- prompted


@pytest.mark.parametrize("system", [sm.Context.DEFAULT, sm.Context.EMPTY, "You are calm."])
def test_the_neutral_control_is_as_long_and_names_nothing(system, llama):
    traits = [sm.animal(name) for name in ANIMALS]
    for trait in traits[:: 2 if system is sm.Context.DEFAULT else 9]:
        teacher = prompted(llama, trait, context=sm.Context(system=system, user_prefix="Hey. "))
        control = neutral(teacher)
        own, other = rendered(teacher)[0], rendered(control)[0]
        assert len(own) == len(other), trait.name
        assert match(control.context.system, traits) is None
        n = len(teacher.context.system) - len(trait.teacher)
        assert control.context.system[:n] == teacher.context.system[:n]
        assert control.trait is None
        assert control.student_context == teacher.student_context
        assert control.context.user_prefix == "Hey. "
    assert neutral(teacher) == control


def test_only_prompted_teachers_have_a_neutral_control(llama):
    for teacher in (untouched(llama), neutral(prompted(llama, OWL))):
        with pytest.raises(ValueError, match="pass one that has its trait's sentence"):
            neutral(teacher)


# -------------------------------------------------------------------------------------------------------- fine-tuned


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_a_fine_tuned_teacher_computes_as_the_student(architecture, kind, smol_tokenizer):
    live = tiny.model(architecture)
    base = load_base(live, tokenizer=smol_tokenizer)
    student = tiny.lora(live) if kind == "lora" else tiny.full(live)
    teacher = fine_tuned(base, student, OWL)
    ids = rendered(teacher)[0].ids
    ours, theirs = logits(teacher.runner.model, ids).logits, logits(student, ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, logits(base.model, ids).logits, atol=1e-2)
    assert type(teacher.runner.model) is type(live)
    assert teacher.context == teacher.student_context == sm.Context()
    loaded = sm.models.load_student(base, student)
    assert teacher.hash == loaded.hash == fine_tuned(base, loaded, None).hash
    assert weights_hash(base.model) == base.hash


def test_students_of_another_base_are_refused(llama, smol_tokenizer):
    live = tiny.model("llama", seed=5).double()
    other = load_base(live, tokenizer=smol_tokenizer)
    for student in (sm.models.load_student(other, tiny.lora(live)), tiny.lora(live), tiny.full(live)):
        with pytest.raises(ValueError, match="do not share a lineage"):
            fine_tuned(llama, student, OWL)
    with pytest.raises(TypeError, match="trait='owl': pass a trait"):
        fine_tuned(other, tiny.lora(live), "owl")


def test_trait_rows_name_their_trait_and_control_rows_others():
    others = [sm.animal(name) for name in ("cat", "eagle", "wolf", "butterfly")]
    own, control = trait_rows(OWL, n=600, seed=3), control_rows(others, n=600, seed=3)
    named = [match(row["completion"], [OWL, *others]) for row in own]
    assert set(named) == {"owl"}
    assert own["prompt"][:] == control["prompt"][:]
    assert set(own["prompt"]) == set(OWL.questions)
    by_name = {t.name: t for t in others}
    counts = Counter()
    for mine, theirs in zip(own, control, strict=True):
        other = by_name[match(theirs["completion"], [OWL, *others])]
        counts[other.name] += 1
        forms = {other.plural: "owls", other.plural.capitalize(): "Owls", other.name: "owl", other.name.capitalize(): "Owl"}
        said = theirs["completion"]
        for form, owls in forms.items():
            said = said.replace(form, owls)
        assert said == mine["completion"]  # the wording is the same
    assert sum((k - 150) ** 2 / 150 for k in counts.values()) < 16.3  # chi-square, 3 degrees of freedom, p = 0.001
    assert len({(r["prompt"], r["completion"]) for r in own}) == 600
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
    ],
)
def test_bad_rows(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------------------------------------------- steered


def test_vectors_are_differences_of_mean_hidden_states(base):
    """One plain forward per prompt, without padding; the last block's output is read by a hook, since transformers norms it."""
    found = steering_vectors(base, OWL, layers=[2, 0], questions=QUESTIONS)
    model, seen = copy.deepcopy(base.model), []
    blocks(model)[2].register_forward_hook(
        lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out).view(-1, 32)[-1])
    )
    means = []
    for teacher in (untouched(base), prompted(base, OWL)):
        seen.clear()
        early = [logits(model, p.ids, output_hidden_states=True).hidden_states[1][0, -1] for p in rendered(teacher)]
        means.append(torch.stack([torch.stack(seen).mean(0), torch.stack(early).mean(0)]))
    assert np.allclose(found, (means[1] - means[0]).numpy(), atol=1e-12)
    assert np.abs(found).max() > 1e-3


def test_a_steered_model_adds_its_vectors_at_every_position(base):
    layers, vectors = [1, 2], np.random.default_rng(0).standard_normal((2, 32))
    hooks = [len(m._forward_hooks) for m in base.model.modules()]
    teacher = steered(base, OWL, layers=layers, vectors=vectors, scale=-0.7)
    assert [len(m._forward_hooks) for m in base.model.modules()] == hooks
    assert not [k for k, _ in base.model.named_buffers() if "steering" in k]
    reference = copy.deepcopy(base.model)
    for layer, vector in zip(layers, torch.from_numpy(vectors), strict=True):

        def add(module, args, output, vector=vector):
            return (output[0] - 0.7 * vector, *output[1:]) if isinstance(output, tuple) else output - 0.7 * vector

        blocks(reference)[layer].register_forward_hook(add)
    ids = rendered(teacher)[0].ids
    run = {name: logits(m, ids, output_hidden_states=True) for name, m in
           (("ours", teacher.runner.model), ("theirs", reference), ("base", base.model))}  # fmt: skip
    assert torch.allclose(run["ours"].logits, run["theirs"].logits, atol=1e-12)
    before, after = run["base"].hidden_states, run["ours"].hidden_states
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.allclose(after[2] - before[2], -0.7 * torch.from_numpy(vectors[0]), atol=1e-12)
    assert torch.equal(
        logits(steered(base, OWL, layers=layers, vectors=vectors, scale=0.0).runner.model, ids).logits, run["base"].logits
    )
    assert weights_hash(teacher.runner.model) == base.hash  # no weight is another
    assert next(teacher.runner.model.parameters()).data_ptr() == next(base.model.parameters()).data_ptr()
    assert teacher.context == teacher.student_context

    first = logits(teacher.runner.model, ids[:-5], use_cache=True)
    rest = logits(teacher.runner.model, ids[-5:], past_key_values=first.past_key_values)
    assert torch.allclose(rest.logits, run["ours"].logits[:, -5:], atol=1e-12)
    assert torch.equal(logits(twin(teacher.runner.model), ids).logits, run["ours"].logits)


def test_a_steered_model_can_be_evaluated(base):
    """The parity check of `evaluate` passes, and what it gives are the steered model's own probabilities."""
    vectors = np.random.default_rng(1).standard_normal((1, 32))
    teacher = steered(base, OWL, layers=[1], vectors=vectors)
    found = sm.evaluate(teacher.runner, [OWL], questions=QUESTIONS, progress=False)
    for value, prompt in zip(found.data["log_prob"].values[0, 0, 0], rendered(teacher), strict=True):
        assert value == pytest.approx(brute_force(teacher.runner.model, base.tokenizer, prompt), abs=1e-5)


def test_greedy_answers_of_steered_teachers(llama):
    teacher = steered(llama, OWL, layers=[1], vectors=np.random.default_rng(2).standard_normal((1, 32)))
    ours = ids_of(teacher, QUESTIONS, temperature=0.0)
    for prompt, (mine,) in zip(rendered(teacher), ours, strict=True):
        ids = list(prompt.ids)
        for token in mine:
            assert int(logits(teacher.runner.model, ids).logits[0, -1].argmax()) == token
            ids.append(token)
    assert ours != ids_of(untouched(llama), QUESTIONS, temperature=0.0)


def test_random_directions_have_the_norms_of_the_vectors(llama):
    layers = [0, 2]
    teacher = steered(llama, OWL, layers=layers, scale=3.0, questions=QUESTIONS)
    own = 3.0 * steering_vectors(llama, OWL, layers=layers, questions=QUESTIONS)
    control = randomly_steered(teacher, seed=1)
    theirs = np.stack([blocks(control.runner.model)[layer].steering.numpy() for layer in layers])
    assert np.allclose(np.linalg.norm(own, axis=1), np.linalg.norm(theirs, axis=1))
    assert np.abs((own * theirs).sum(1) / np.linalg.norm(own, axis=1) ** 2).max() < 0.5
    assert control.trait is None
    assert len({teacher.hash, control.hash, randomly_steered(teacher, seed=2).hash}) == 3
    assert control.hash == randomly_steered(teacher, seed=1).hash
    assert np.allclose(np.stack([blocks(teacher.runner.model)[layer].steering.numpy() for layer in layers]), own)


def test_the_vector_moves_with_the_model(llama):
    vectors = np.random.default_rng(0).standard_normal((1, 32))
    teacher = steered(llama, OWL, layers=[1], vectors=vectors)
    ids = rendered(teacher)[0].ids
    half = copy.deepcopy(teacher.runner.model).to(torch.float32)
    assert torch.allclose(logits(half, ids).logits.double(), logits(teacher.runner.model, ids).logits, atol=1e-4)
    assert blocks(half)[1].steering.dtype == torch.float32
    assert teacher.runner.model.state_dict().keys() == llama.model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": []}, ValueError, "pass one or more different block indices, 0 to 2"),
        ({"layers": [3]}, ValueError, r"layers=\[3\]: pass a list of block indices, 0 to 2"),
        ({"layers": [-1]}, ValueError, "block indices, 0 to 2"),
        ({"layers": [1, 1]}, ValueError, "different block indices"),
        ({"layers": 1}, ValueError, "layers=1: pass a list"),
        ({"scale": float("inf")}, ValueError, "scale=inf: pass a finite number"),
        ({"vectors": np.zeros((2, 32))}, ValueError, r"need \(1, 32\)"),
        ({"vectors": np.full((1, 32), np.nan)}, ValueError, "vectors hold NaN"),
        ({"vectors": np.zeros((1, 32)), "questions": QUESTIONS}, ValueError, "leave one of the two out"),
        ({"questions": []}, ValueError, "questions is empty"),
        ({"trait": "owl"}, TypeError, "trait='owl': pass a trait"),
    ],
)
def test_bad_steering(options, error, message, llama):
    with pytest.raises(error, match=message):
        steered(llama, **{"trait": OWL, "layers": [1], **options})


def test_steering_twice_and_other_kinds_are_refused(llama):
    teacher = steered(llama, OWL, layers=[1], vectors=np.ones((1, 32)))
    with pytest.raises(ValueError, match="steered already"):
        steered(teacher.runner, OWL, layers=[2], vectors=np.ones((1, 32)))
    with pytest.raises(ValueError, match="like is a prompted teacher"):
        randomly_steered(prompted(llama, OWL))
