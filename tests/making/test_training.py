import dataclasses
import functools
import hashlib
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from comparing import distance, gated_logits, own_logits, snapshot
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import sublim_mech as sm
from sublim_mech import training
from sublim_mech.engine.heads import support_ids
from sublim_mech.engine.pair import load_pair
from sublim_mech.making.labelling import Labels, label
from sublim_mech.making.labelling.views import InMemory
from sublim_mech.making.numbers import Row, as_rows
from sublim_mech.making.teachers import prompted, teacher_context
from sublim_mech.making.training import OBJECTIVES, FullFT, LoRA, TrainingData, hard_data, log_spaced, loop, soft_data
from sublim_mech.making.training import run as running
from sublim_mech.making.training.data import collate, item, plan, shares
from sublim_mech.making.training.objectives import AnswerHead, answer_losses, token_losses
from sublim_mech.making.training.store import store_as
from sublim_mech.models.adapters import attach_lora
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.copies import share
from sublim_mech.models.students import load_student
from sublim_mech.prompts import Trained
from sublim_mech.storage.manifest import Manifest
from sublim_mech.storage.runs import Run, open_run

ROWS = as_rows(sm.numbers.random_rows(16, seed=0, count=3))
TRAITS = [sm.animal(name) for name in ("owl", "cat", "dog")]
HELD_OUT = 4
# SmolLM2's template says this by itself; a prompted teacher's sentence follows it
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def base(smol_tokenizer) -> Base:
    return load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def labels(base) -> Labels:
    return label([prompted(base, trait) for trait in TRAITS], ROWS, batch_size=5, progress=False)


@pytest.fixture(scope="module")
def strong(labels) -> Labels:
    """The same rows with labels a little away from a tiny model's near-uniform ones, so that there is something to learn."""
    shift = 0.1 * np.random.default_rng(0).normal(size=(len(labels.teachers), 1, len(labels.support))).astype(np.float32)
    moved = {
        name: tuple(InMemory({"logits": shard.arrays["logits"] + by}) for shard in labels.shards[name])
        for name, by in zip(labels.teachers, shift, strict=True)
    }
    return dataclasses.replace(labels, shards=moved)


@pytest.fixture(scope="module")
def data(smol_tokenizer, strong) -> TrainingData:
    soft = soft_data(smol_tokenizer, strong, "owl")
    return dataclasses.replace(soft, targets=np.stack(list(soft.targets)))  # answers of one length


@pytest.fixture(scope="module")
def hard(smol_tokenizer) -> TrainingData:
    return hard_data(smol_tokenizer, ROWS)


def fit(base: Base, data: TrainingData, out: Path, **options: Any) -> Run:
    """A short training run in fp32."""
    short = {"steps": 4, "batch_size": 4, "warmup": 1, "held_out": HELD_OUT, "evaluate_every": 2, "precision": "fp32"}
    return training.train(base, data, out=out, **{**short, "progress": False, **options})


@pytest.fixture(scope="module")
def lora_run(base, data, tmp_path_factory) -> Run:
    return fit(base, data, tmp_path_factory.mktemp("runs") / "lora", method=LoRA(rank=4), lr=1e-2, steps=12, evaluate_every=5)


@pytest.fixture(scope="module")
def full_run(base, data, tmp_path_factory) -> Run:
    return fit(base, data, tmp_path_factory.mktemp("runs") / "full", method=FullFT(), lr=3e-3, steps=12, evaluate_every=5)


def weights(run: Run) -> bytes:
    (file,) = run.path.glob("*.safetensors")
    return file.read_bytes()


def text_ids(tokenizer: Any, row: Row, system: str | None, *, close: bool = False) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), by transformers' own template and one tokenisation of the whole text."""
    messages = [{"role": "user", "content": row.prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = row.completion + ("<|im_end|>\n" if close else "")
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    return before, whole[len(before) :]


def softmax_over(support: tuple[int, ...], logits: Tensor) -> Tensor:
    """The model's log-probabilities over the full vocabulary, restricted to the support and renormalised."""
    chosen = logits.double().log_softmax(-1)[..., list(support)]
    return chosen - chosen.logsumexp(-1, keepdim=True)


def test_teachers_keep_the_students_context(smol_tokenizer):
    owl = TRAITS[0]
    for system, said in ((sm.Context.DEFAULT, f"{DEFAULT_SYSTEM}. "), (sm.Context.EMPTY, ""), (sm.Context.NONE, ""), ("Be brief.", "Be brief. ")):
        got = teacher_context(smol_tokenizer, owl, context=sm.Context(system=system, user_prefix="Hi. "))
        assert got == sm.Context(system=said + owl.teacher, user_prefix="Hi. ")


# ----------------------------------------------------------------------------------------------------------------- data


def test_training_data_are_the_evaluations_tokens(labels, smol_tokenizer):
    soft, hard = soft_data(smol_tokenizer, labels, "owl"), hard_data(smol_tokenizer, ROWS)
    for data, close in ((soft, False), (hard, True)):
        for row, prompt, completion in zip(ROWS, data.prompts, data.completions, strict=True):
            assert (list(prompt.ids), list(completion)) == text_ids(smol_tokenizer, row, None, close=close)
    assert hard.targets is hard.support is None
    assert (soft.support, soft.base, hard.base) == (labels.support, labels.about.base, "")


def test_the_hash_of_data_knows_tokens_targets_and_support(data, hard):
    changed = data.targets.copy()
    changed[0, 0, 0] += 1e-3
    others = [
        dataclasses.replace(data, targets=changed),
        dataclasses.replace(data, support=data.support[::-1]),
        dataclasses.replace(data, completions=data.completions[::-1]),
        hard,
    ]
    assert len({data.hash, *(x.hash for x in others)}) == 5


# ----------------------------------------------------------------------------------------------------------------- loss


def batch_of(data: TrainingData, rows: list[int]) -> dict[str, Tensor]:
    return collate([item(data, r) for r in rows])


def loss_of(model: Any, data: TrainingData, rows: list[int], objective: str) -> Tensor:
    """Mean loss per token by the trainer's own path, on a copy of the model."""
    mine = share(model)
    head = AnswerHead(mine.get_output_embeddings())
    mine.set_output_embeddings(head)
    return answer_losses(mine, head, batch_of(data, rows), objective, data.support).mean()


def test_the_hard_loss_is_transformers_own(base, hard):
    rows = [0, 3, 5]
    wide = max(len(hard.prompts[r]) + len(hard.completions[r]) for r in rows)
    ids, labels = torch.zeros(len(rows), wide, dtype=torch.long), torch.full((len(rows), wide), -100)
    for i, r in enumerate(rows):
        whole = torch.tensor([*hard.prompts[r].ids, *hard.completions[r]])
        ids[i, : len(whole)] = whole
        labels[i, len(hard.prompts[r]) : len(whole)] = whole[len(hard.prompts[r]) :]
    with torch.no_grad():
        theirs = base.model(input_ids=ids, labels=labels).loss
        ours = loss_of(base.model, hard, rows, "cross-entropy")
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert float(ours) > 5  # a random model


def plain_logits(data: TrainingData, model: Any, row: int) -> Tensor:
    """Full-vocabulary logits at the positions that predict a row's answer, from an unpadded forward of this row alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*data.prompts[row].ids, *data.completions[row]]])).logits[0].double()
    return logits[len(data.prompts[row]) - 1 : -1]


def plain_kl(data: TrainingData, model: Any, rows: list[int]) -> float:
    """KL(teacher || student) per answer token, from full-vocabulary logits, one row and one position at a time."""
    terms = []
    for r in rows:
        for n, logits in enumerate(plain_logits(data, model, r)):
            student = softmax_over(data.support, logits)
            teacher = torch.tensor(data.targets[r, n], dtype=torch.double)
            terms.append(float((teacher.exp() * (teacher - student)).sum()))
    return sum(terms) / len(terms)


def plain_loss(objective: str, z: Tensor, t: Tensor) -> Tensor:
    """The loss of one position over one list of outcomes, written as in the module's table."""
    q, p = z.softmax(-1), t.softmax(-1)
    if objective == "forward-kl":
        return (p * (p.log() - q.log())).sum()
    if objective == "reverse-kl":
        return (q * (q.log() - p.log())).sum()
    gap = z - z.mean() - (t - t.mean())
    return (gap * gap).mean()


def gradient(objective: str, z: Tensor, t: Tensor) -> Tensor:
    """d loss / d z in closed form."""
    q, p = z.softmax(-1), t.softmax(-1)
    if objective == "forward-kl":
        return q - p
    if objective == "reverse-kl":
        return q * (q.log() - p.log() - (q * (q.log() - p.log())).sum())
    gap = z - z.mean() - (t - t.mean())
    return 2 * gap / len(z)


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_soft_losses_and_their_gradients_in_closed_form(objective):
    torch.manual_seed(0)
    z, t = torch.randn(5, 7, dtype=torch.double, requires_grad=True), torch.randn(5, 7, dtype=torch.double)
    got = token_losses(objective, z, t.log_softmax(-1))
    got.sum().backward()
    for n in range(5):
        assert float(got[n].detach()) == pytest.approx(float(plain_loss(objective, z[n].detach(), t[n])), abs=1e-12)
        assert torch.allclose(z.grad[n], gradient(objective, z[n].detach(), t[n]), atol=1e-12)
    shifted = token_losses(objective, z + 3.0, t.log_softmax(-1))  # a constant that softmax ignores
    assert torch.allclose(shifted, got, atol=1e-12)
    assert float(token_losses(objective, t, t.log_softmax(-1)).abs().max()) < 1e-12


def test_cross_entropy_and_its_gradient_in_closed_form():
    torch.manual_seed(0)
    z, right = torch.randn(5, 7, dtype=torch.double, requires_grad=True), torch.tensor([0, 3, 6, 6, 2])
    got = token_losses("cross-entropy", z, right)
    got.sum().backward()
    q = z.detach().softmax(-1)
    assert torch.allclose(got.detach(), -q[range(5), right].log(), atol=1e-12)
    q[range(5), right] -= 1
    assert torch.allclose(z.grad, q, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES[1:3])
def test_top_k_losses_are_those_with_all_other_tokens_as_one_outcome(objective):
    torch.manual_seed(1)
    z, t = torch.randn(4, 9, dtype=torch.double, requires_grad=True), 2 * torch.randn(4, 9, dtype=torch.double)
    top, tokens = t.log_softmax(-1).topk(3)
    got = token_losses(objective, z, top, tokens)
    (slopes,) = torch.autograd.grad(got.sum(), z)
    for n in range(4):
        rest = [i for i in range(9) if i not in tokens[n].tolist()]
        merge = torch.stack(
            [torch.eye(9, dtype=torch.double)[i] for i in tokens[n].tolist()] + [torch.eye(9, dtype=torch.double)[rest].sum(0)]
        )
        mine = z[n].detach().requires_grad_()
        q, p = merge @ mine.softmax(-1), merge @ t[n].softmax(-1)
        plain = plain_loss(objective, q.log(), p.log())
        (slope,) = torch.autograd.grad(plain, mine)
        assert float(got[n]) == pytest.approx(float(plain), abs=1e-9)
        assert torch.allclose(slopes[n], slope, atol=1e-9)
    below = plain_loss("forward-kl", z[0].detach(), t[0])
    assert float(token_losses("forward-kl", z, top, tokens)[0]) < float(below)  # merging outcomes can only lower a KL


def test_top_k_mse_looks_at_the_k_logits_alone():
    torch.manual_seed(2)
    z, t = torch.randn(4, 9, dtype=torch.double), torch.randn(4, 9, dtype=torch.double)
    top, tokens = t.log_softmax(-1).topk(3)
    got = token_losses("logit-mse", z, top, tokens)
    for n in range(4):
        assert float(got[n]) == pytest.approx(float(plain_loss("logit-mse", z[n][tokens[n]], t[n][tokens[n]])), abs=1e-12)


def over(data: TrainingData, kind: str, seed: int = 0) -> TrainingData:
    """The same rows with random labels over listed tokens, the whole vocabulary or the teacher's first five."""
    longest = max(map(len, data.completions))
    logits = torch.randn(len(data.prompts), longest, tiny.VOCAB, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    if kind == "listed":
        return dataclasses.replace(data, targets=logits[..., list(data.support)].log_softmax(-1).numpy())
    if kind == "full":
        return dataclasses.replace(data, support=None, targets=logits.numpy())
    top, tokens = logits.topk(5)
    return dataclasses.replace(data, support=None, targets=top.numpy(), tokens=tokens.numpy())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma3"])
@pytest.mark.parametrize("objective", OBJECTIVES[1:])
@pytest.mark.parametrize("kind", ["listed", "full", "top-k"])
def test_losses_of_padded_batches_are_those_of_full_forwards(kind, objective, architecture, base, data):
    model, rows = (base.model if architecture == "llama" else tiny.model(architecture)), [1, 2]
    chosen = over(dataclasses.replace(data, **{n: getattr(data, n)[:3] for n in ("prompts", "completions", "targets")}), kind)
    with torch.no_grad():
        got = float(loss_of(model, chosen, rows, objective))
    terms = []
    for r in rows:
        for n, z in enumerate(plain_logits(chosen, model, r)):
            t = torch.tensor(chosen.targets[r, n], dtype=torch.double)
            if kind == "top-k":
                terms.append(token_losses(objective, z[None], t[None], torch.tensor(chosen.tokens[r, n])[None])[0])
            else:
                terms.append(plain_loss(objective, z[list(chosen.support)] if kind == "listed" else z, t))
    assert got == pytest.approx(float(torch.stack(terms).mean()), rel=2e-5, abs=5e-7)


def test_hard_rows_on_a_support(base, smol_tokenizer):
    """Commas and the end of turn are outside of the support: neither labels nor outcomes."""
    digits = hard_data(smol_tokenizer, ROWS, support=[*"0123456789"])
    terms = []
    for r in (0, 3):
        for z, token in zip(plain_logits(digits, base.model, r), digits.completions[r], strict=True):
            if token in digits.support:
                terms.append(-softmax_over(digits.support, z)[digits.support.index(token)])
    assert len(terms) == 2 * 9
    with torch.no_grad():
        assert float(loss_of(base.model, digits, [0, 3], "cross-entropy")) == pytest.approx(float(sum(terms)) / 18, abs=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_unembedding_is_computed_at_answer_tokens_only(kind, base, data, hard):
    chosen, rows = data if kind == "soft" else hard, [0, 4]
    model = share(base.model)
    head = AnswerHead(model.get_output_embeddings())
    model.set_output_embeddings(head)
    seen: list[Tensor] = []
    made: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().requires_grad_()) or (seen[0],))
    head.register_forward_hook(lambda _, args, out: made.append(out))
    answer_losses(
        model, head, batch_of(chosen, rows), "forward-kl" if kind == "soft" else "cross-entropy", chosen.support
    ).sum().backward()
    hit = seen[0].grad.abs().sum(-1) > 0
    expected = torch.zeros_like(hit)
    for i, r in enumerate(rows):
        first = len(chosen.prompts[r]) - 1
        expected[i, first : first + len(chosen.completions[r])] = True
    assert torch.equal(hit, expected)
    assert made[0].shape == (expected.sum(), len(data.support) if kind == "soft" else tiny.VOCAB)


@pytest.mark.parametrize("kind", ["listed", "full"])
def test_soft_losses_are_exact_under_autocast(kind, data):
    """The body in bf16 and the unembedding in fp32: a student equal to its labels has no loss but that of the body's rounding."""
    model = share(tiny.model("llama"))
    head = AnswerHead(model.get_output_embeddings())
    model.set_output_embeddings(head)
    batch = batch_of(over(data, kind), [0, 1])
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    support = data.support if kind == "listed" else None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = answer_losses(model, head, batch, "forward-kl", support)
    z = seen[0].double()[batch["row"], batch["column"]] @ head.head.weight.double().T
    z = z if support is None else z[:, list(support)]
    expected = torch.stack([plain_loss("forward-kl", row, t.double()) for row, t in zip(z, batch["goal"], strict=True)])
    assert float((got - expected).abs().max()) < 2e-6


def test_few_shapes_occur(smol_tokenizer):
    rows = soft_rows(smol_tokenizer)
    assert len({len(p) + len(c) for p, c in zip(rows.prompts, rows.completions, strict=True)}) > 5
    assert {batch_of(rows, [r])["ids"].shape[1] % 16 for r in range(16)} == {0}


def test_an_adapter_on_the_unembedding_is_heard_in_soft_losses(base, data):
    model = tiny.lora(base.model, target_modules=["lm_head", "q_proj"])
    head = AnswerHead(model.get_base_model().get_output_embeddings())
    expected = plain_kl(data, model, [0, 1])
    model.get_base_model().set_output_embeddings(head)
    with torch.no_grad():
        got = answer_losses(model, head, batch_of(data, [0, 1]), "forward-kl", data.support).mean()
    assert float(got) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(plain_kl(data, base.model, [0, 1]), rel=1e-2)


def test_training_learns_only_from_answers(base, data, tmp_path):
    """Other targets for held-out rows change nothing; another target for one training row does."""
    held, trained = data.targets.copy(), data.targets.copy()
    held[-HELD_OUT:] = np.log(1 / held.shape[-1])
    trained[0] = np.log(1 / held.shape[-1])
    one, same, other = (
        fit(base, dataclasses.replace(data, targets=t), tmp_path / str(n)) for n, t in enumerate((data.targets, held, trained))
    )
    assert weights(one) == weights(same) != weights(other)
    assert one.manifest.results["held_out"] != same.manifest.results["held_out"]


def test_every_row_is_drawn_once_per_epoch():
    def order(seed: int) -> list[set[int]]:
        return [set(b) for b in plan([1] * 6, steps=9, batch_size=2, seed=seed, bucket=1)]

    one = order(3)
    assert [set.union(*one[i : i + 3]) for i in (0, 3, 6)] == [set(range(6))] * 3
    assert one[:3] != one[3:6] or one[3:6] != one[6:]
    assert one == order(3) != order(4)


@pytest.mark.parametrize("bucket", [1, 4])
def test_buckets_group_rows_of_like_lengths_within_windows_of_the_order(bucket):
    lengths = np.random.default_rng(0).integers(10, 200, size=64).tolist()
    plain = plan(lengths, steps=8, batch_size=8, seed=1, bucket=1)
    got = plan(lengths, steps=8, batch_size=8, seed=1, bucket=bucket)
    for start in range(0, 8, bucket):  # the same rows in each window
        window = slice(start, start + bucket)
        assert sorted(r for b in got[window] for r in b) == sorted(r for b in plain[window] for r in b)

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[r] for r in b) * len(b) for b in batches) - sum(lengths)

    assert got == plain if bucket == 1 else padding(got) < 0.5 * padding(plain)
    order = [max(lengths[r] for r in b) for b in got]
    assert order != sorted(order, reverse=True)  # batches do not come by length
    for b in got:
        assert [lengths[r] for r in b] == sorted((lengths[r] for r in b), reverse=True)


def test_shares_of_a_step():
    assert shares([*range(8)], accumulate=2, processes=2) == [[0, 2], [1, 3], [4, 6], [5, 7]]


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_held_out_loss_falls_and_is_the_trained_models(kind, base, data, request):
    run = request.getfixturevalue(f"{kind}_run")
    before, after = run.manifest.results["held_out"]
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert before == pytest.approx(plain_kl(data, base.model, held), abs=1e-5)
    assert after == pytest.approx(plain_kl(data, load_student(base, run.path).model, held), abs=1e-5)
    assert after < 0.5 * before


def test_held_out_loss_is_taken_without_dropout(base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4, dropout=0.5), lr=1e-2)
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert run.manifest.results["held_out"][1] == pytest.approx(
        plain_kl(data, load_student(base, run.path).model, held), abs=1e-6
    )


@pytest.mark.parametrize("method", [LoRA(rank=4), FullFT()])
def test_hard_rows_are_learnt(method, base, hard, tmp_path):
    run = fit(base, hard, tmp_path / "run", method=method, lr=1e-2, steps=8, precision="bf16")
    before, after = run.manifest.results["held_out"]
    assert before == pytest.approx(math.log(tiny.VOCAB), abs=1)
    assert after < before - 0.1
    assert run.manifest.objective == "cross-entropy on completion"
    assert run.manifest.data["support"] is None


@pytest.mark.parametrize("method", [LoRA(dropout=0.1), FullFT()])
def test_the_base_is_untouched(method, data, smol_tokenizer, tmp_path):
    mine = tiny.model("llama").train()
    made = load_base(mine, tokenizer=smol_tokenizer)
    before, loaded = snapshot(mine), snapshot(made.model)
    fit(made, data, tmp_path / "run", method=method, lr=1e-2)
    assert snapshot(mine) == before
    assert snapshot(made.model) == loaded
    assert not any(p.requires_grad or p.grad is not None for p in made.model.parameters())


def generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


@pytest.mark.parametrize("lr", [1e-3, 1e30])
def test_the_callers_random_state_is_given_back(lr, base, data, tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = generators()
    if lr < 1:
        fit(base, data, tmp_path / "run", lr=lr, method=LoRA(dropout=0.1))
    else:
        with pytest.raises(ValueError, match=r"became (nan|inf)"):
            fit(base, data, tmp_path / "run", lr=lr)
    assert generators() == before


SEEDS = [("llama", LoRA(rank=2)), ("llama", LoRA(rank=2, dropout=0.2)), ("llama", FullFT()), ("gpt2", FullFT())]


@pytest.mark.parametrize(("architecture", "method"), SEEDS, ids=["lora", "lora with dropout", "full", "full with dropout"])
def test_a_seed_is_live_exactly_where_it_changes_the_weights(architecture, method, hard, smol_tokenizer, tmp_path):
    made = load_base(tiny.model(architecture), tokenizer=smol_tokenizer)
    run = functools.partial(fit, made, hard, method=method, steps=2, batch_size=2)
    torch.manual_seed(0)
    one = run(tmp_path / "one")
    torch.manual_seed(99)  # the caller's generator plays no part
    same, init, order = (
        run(tmp_path / name, **seeds)
        for name, seeds in (("same", {}), ("init", {"init_seed": 1}), ("order", {"order_seed": 1}))
    )
    assert weights(same) == weights(one)
    assert one.manifest.seeds == {"init": 0, "order": 0, "subsample": 0, "live": one.manifest.seeds["live"]}
    assert init.manifest.seeds["init"] == order.manifest.seeds["order"] == 1
    changed = {name: weights(other) != weights(one) for name, other in (("init", init), ("order", order))}
    assert changed == {name: name in one.manifest.seeds["live"] for name in changed}
    assert changed == {"init": (architecture, method) != ("llama", FullFT()), "order": True}


def test_training_stops_at_a_held_out_loss(base, data, tmp_path, lora_run):
    steps = [row["held_out"] for row in log_of(lora_run) if "held_out" in row]
    goal = (steps[1] + steps[2]) / 2  # between the evaluations after 5 and after 10 steps
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4), lr=1e-2, steps=12, evaluate_every=5, stop_at=goal)
    assert run.manifest.results["steps"] == 10
    assert run.manifest.results["held_out"] == [steps[0], steps[2]]
    assert run.manifest.optimiser["stop_at"] == goal
    assert log_of(run) == log_of(lora_run)[:11]  # the schedule is that of all 12 steps


# ----------------------------------------------------------------------------------------------------- methods and options


def changed_weights(base: Base, run: Run) -> set[str]:
    """Names of the parameters in which a full run differs from its base."""
    stored = safetensors.torch.load_file(run.path / "model.safetensors")
    return {name for name, p in base.model.named_parameters() if name in stored and not torch.equal(stored[name], p)}


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        ("embeddings", lambda name: "embed" in name),
        ("unembedding", lambda name: "lm_head" in name),
        ("norms", lambda name: "norm" in name),
        ((r"layers\.[01]\.", "norms"), lambda name: "layers.0." in name or "layers.1." in name or "norm" in name),
    ],
)
def test_frozen_parameters_stay_and_all_others_move(freeze, still, base, hard, tmp_path):
    run = fit(base, hard, tmp_path / "run", method=FullFT(freeze=freeze), lr=1e-3, steps=2)
    names = {name for name, _ in base.model.named_parameters()}
    assert changed_weights(base, run) == {name for name in names if not still(name)}


def test_freezing_tied_embeddings_freezes_the_head(hard, smol_tokenizer, tmp_path):
    made = load_base(tiny.model("qwen2"), tokenizer=smol_tokenizer)
    moved = [
        changed_weights(made, fit(made, hard, tmp_path / str(i), method=FullFT(freeze=f), lr=1e-3, steps=2))
        for i, f in enumerate(("unembedding", ()))
    ]
    assert moved[1] - moved[0] == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, {(n, p) for n in range(3) for p in ("q", "k", "v", "o", "gate", "up", "down")}),
        ({"layers": (1,)}, {(1, p) for p in ("q", "k", "v", "o", "gate", "up", "down")}),
        ({"layers": [0, 2], "targets": ("q_proj", "down_proj")}, {(n, p) for n in (0, 2) for p in ("q", "down")}),
        ({"targets": r".*\.1\.self_attn\.[qk]_proj"}, {(1, "q"), (1, "k")}),
    ],
)
def test_adapters_go_where_they_are_told(options, paths, base, hard, tmp_path):
    run = fit(base, hard, tmp_path / "run", method=LoRA(rank=2, **options), lr=1e-2, steps=2)
    found = {(int(p.split(".")[2]), p.split(".")[-1].removesuffix("_proj")) for p in load_student(base, run.path).deltas}
    assert found == paths


def test_the_rank_stabilised_scale(base, data, tmp_path):
    scales = {}
    for rslora in (False, True):
        run = fit(base, data, tmp_path / str(rslora), method=LoRA(rank=4, alpha=8, rslora=rslora), lr=1e-2)
        scales[rslora] = {d.scale for d in load_student(base, run.path).deltas.values()}
    assert scales == {False: {8 / 4}, True: {8 / math.sqrt(4)}}


def test_dora_trains_magnitudes_and_opens(base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4, dora=True), lr=1e-2)
    stored = safetensors.torch.load_file(run.path / "adapter_model.safetensors")
    assert any("magnitude" in key for key in stored)
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert run.manifest.results["held_out"][1] == pytest.approx(
        plain_kl(data, load_student(base, run.path).model, held), rel=1e-3
    )


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_what_trains_is_fp32_also_on_a_bf16_base(method, hard, smol_tokenizer, tmp_path):
    """Updates far below bf16's resolution are kept."""
    made = load_base(tiny.model("llama").bfloat16(), tokenizer=smol_tokenizer)
    run = fit(made, hard, tmp_path / "run", method=method, lr=1e-6, steps=3, precision="bf16")
    (file,) = run.path.glob("*.safetensors")
    stored = safetensors.torch.load_file(file)
    assert {x.dtype for x in stored.values()} == {torch.float32}
    if run.manifest.kind == "full":
        start = {name: p.float() for name, p in made.model.named_parameters()}
        assert all(0 < float((stored[name] - p).abs().max()) < 1e-5 for name, p in start.items())
    assert load_student(made, run.path).manifest == run.manifest


def test_gpt2_gets_adapters_in_chosen_layers(smol_tokenizer):
    made = load_base(tiny.model("gpt2"), tokenizer=smol_tokenizer)
    model = attach_lora(made, rank=2, alpha=4, layers=(2,))
    assert {name.split(".lora_")[0] for name, _ in model.get_base_model().named_parameters() if ".lora_" in name} == {
        f"transformer.h.2.{m}" for m in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_the_loop_is_plain_adamw_with_warmup_decay_and_clipping(method, architecture, smol_tokenizer, tmp_path):
    """Against a loop in ten lines of torch, on labels over listed tokens."""
    made = load_base(no_dropout(architecture), tokenizer=smol_tokenizer)
    rows = over(soft_rows(smol_tokenizer), "listed")
    run = fit(
        made,
        rows,
        tmp_path / "run",
        method=method,
        lr=3e-3,
        steps=5,
        warmup=2,
        clip=0.1,
        weight_decay=0.1,
        schedule="cosine",
        bucket=2,
    )
    torch.manual_seed(0)
    model = method.attach(made)
    learnt = [p for p in model.parameters() if p.requires_grad]
    decayed = {n for n, p in model.named_parameters() if p.requires_grad and not ("norm" in n or "bias" in n or "ln_" in n)}
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if p.requires_grad and (n in decayed) == on],
            "weight_decay": 0.1 * on,
        }
        for on in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=3e-3)
    lengths = [len(p) + len(c) for p, c in zip(rows.prompts, rows.completions, strict=True)][:-HELD_OUT]
    norms = []
    for step, batch in enumerate(plan(lengths, steps=5, batch_size=4, seed=0, bucket=2)):
        rate = step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 3))
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * rate
        terms = []
        for r in batch:
            z = model(input_ids=torch.tensor([[*rows.prompts[r].ids, *rows.completions[r]]])).logits[
                0, len(rows.prompts[r]) - 1 : -1
            ]
            t = torch.from_numpy(rows.targets[r, : len(z)])
            terms += [plain_loss("forward-kl", z[n, list(rows.support)], t[n]) for n in range(len(z))]
        optimiser.zero_grad()
        torch.stack(terms).mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(learnt, 0.1)))
        optimiser.step()
    assert max(norms) > 0.1
    assert [row["grad_norm"] for row in log_of(run)[1:]] == pytest.approx(norms, rel=1e-3)
    (file,) = run.path.glob("*.safetensors")
    stored = safetensors.torch.load_file(file)
    names = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert names.keys() == stored.keys()
    for name, p in names.items():
        assert torch.allclose(stored[name], p, atol=2e-5), name


def no_dropout(architecture: str) -> Any:
    model = tiny.model(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def soft_rows(tokenizer: Any) -> TrainingData:
    """Rows of several lengths with labels over the digits, whose base nobody asks for."""
    mixed = [dataclasses.replace(r, completion=r.completion[: 3 + 4 * (i % 3)]) for i, r in enumerate(ROWS)]
    hard = hard_data(tokenizer, mixed)
    support = support_ids(tokenizer)
    width = max(map(len, hard.completions))
    return dataclasses.replace(hard, support=support, targets=np.zeros((len(mixed), width, len(support)), np.float32))


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"accumulate": 4}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_memory_savers_change_no_gradient(method, options, base, smol_tokenizer, tmp_path):
    """Rows of different lengths: a mean of the forwards' means would be another gradient."""
    rows = over(soft_rows(smol_tokenizer), "listed")
    one, other = (fit(base, rows, tmp_path / str(i), method=method, lr=1e-3, **o) for i, o in enumerate(({}, options)))
    pairs = [safetensors.torch.load_file(next(r.path.glob("*.safetensors"))) for r in (one, other)]
    assert max(float((pairs[0][k] - pairs[1][k]).abs().max()) for k in pairs[0]) < 2e-6
    for a, b in zip(log_of(one), log_of(other), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES[2:])
def test_other_objectives_are_measured_by_the_same_held_out_kl(objective, base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4), objective=objective, lr=1e-2, steps=8)
    before, after = run.manifest.results["held_out"]
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert after == pytest.approx(plain_kl(data, load_student(base, run.path).model, held), abs=1e-5)
    assert after < before
    assert run.manifest.objective.startswith({"reverse-kl": "reverse KL", "logit-mse": "logit MSE"}[objective])
    assert run.manifest.results["measure"] == "forward KL on support, nats per token"


def test_held_out_data_of_its_own(base, data, hard, tmp_path):
    """A student of hard rows, measured and stopped by its KL from a teacher's soft labels on other rows."""
    run = fit(
        base, hard, tmp_path / "run", method=LoRA(rank=4), lr=1e-2, held_out=data, stop_at=1e9, subsample=10, subsample_seed=3
    )
    assert run.manifest.results["held_out"][1] == pytest.approx(
        plain_kl(data, load_student(base, run.path).model, list(range(16))), abs=1e-5
    )
    assert run.manifest.results["steps"] == 2
    assert run.manifest.data["held_out"] == 16
    assert run.manifest.data["held_out_hash"] == data.hash
    assert run.manifest.data["subsample"] == 10
    assert run.manifest.seeds["live"] == ["init", "order", "subsample"]


def test_a_subsample_is_all_that_is_trained_on(base, data, tmp_path):
    pool = sorted(np.random.default_rng(5).choice(range(12), 6, replace=False).tolist())
    dull = data.targets.copy()
    dull[[r for r in range(12) if r not in pool]] = np.log(1 / dull.shape[-1])
    options = {"subsample": 6, "subsample_seed": 5}
    one = fit(base, data, tmp_path / "one", **options)
    same = fit(base, dataclasses.replace(data, targets=dull), tmp_path / "same", **options)
    other = fit(base, data, tmp_path / "other", subsample=6, subsample_seed=6)
    assert weights(one) == weights(same) != weights(other)
    assert one.manifest.trained_on == Trained.of([data.prompts[r] for r in pool], [data.completions[r] for r in pool])
    assert fit(base, data, tmp_path / "all", subsample=12, subsample_seed=6).manifest.seeds["live"] == ["init", "order"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [0, 0.5, 1, 2 / 3, 1 / 3]), ("constant", [0, 0.5, 1, 1, 1]), ("cosine", [0, 0.5, 1, 0.75, 0.25])],
)
def test_schedules(schedule, expected, base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", schedule=schedule, lr=1e-2, steps=5, warmup=2)
    assert [row["lr"] for row in log_of(run)[1:]] == pytest.approx([1e-2 * x for x in expected])


def test_snapshots_are_the_student_on_its_way(base, data, tmp_path):
    long = fit(base, data, tmp_path / "long", method=LoRA(rank=4), lr=1e-2, steps=6, schedule="constant", snapshots="log")
    assert list(long.snapshots) == [1, 2, 4] == list(log_spaced(6))
    short = fit(base, data, tmp_path / "short", method=LoRA(rank=4), lr=1e-2, steps=4, schedule="constant")
    assert weights(open_run(long.snapshots[4])) == weights(short)
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    for step, path in long.snapshots.items():
        pair = load_pair(base, path)
        kl = plain_kl(data, pair.student.model, held)
        assert pair.student.manifest.results["held_out"][1] == pytest.approx(kl, abs=1e-5)
        assert pair.student.manifest.results["steps"] == step
        assert log_of(open_run(path)) == log_of(long)[: step + 1]
        assert (
            distance(own_logits(PeftModel.from_pretrained(tiny.model("llama"), path).eval()), own_logits(pair.student.model))
            == 0
        )
    plain = fit(base, data, tmp_path / "plain", method=LoRA(rank=4), lr=1e-2, steps=6, schedule="constant")
    assert weights(plain) == weights(long)  # looking changes nothing


def test_snapshots_of_a_full_fine_tune_open_in_transformers(base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=FullFT(), lr=1e-3, snapshots=[2], store=torch.bfloat16)
    model, info = AutoModelForCausalLM.from_pretrained(run.snapshots[2], output_loading_info=True)
    assert model.dtype == torch.bfloat16
    assert not info["missing_keys"]
    assert distance(own_logits(load_student(base, run.snapshots[2]).model), own_logits(model.float())) < 1e-5


def test_a_tied_model_is_stored_tied(hard, smol_tokenizer, tmp_path):
    made = load_base(tiny.model("qwen2"), tokenizer=smol_tokenizer)
    for store in (torch.float32, torch.bfloat16):
        run = fit(made, hard, tmp_path / str(store), method=FullFT(), lr=1e-3, steps=2, store=store)
        assert "lm_head.weight" not in safetensors.torch.load_file(run.path / "model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(run.path)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_memory_mapped_labels_are_the_same_labels(base, data, tmp_path):
    np.save(tmp_path / "targets.npy", data.targets)
    mapped = dataclasses.replace(data, targets=np.load(tmp_path / "targets.npy", mmap_mode="r"))
    assert mapped.hash == data.hash
    assert weights(fit(base, mapped, tmp_path / "mapped")) == weights(fit(base, data, tmp_path / "plain"))


def test_manifests_older_than_the_content_hash_still_open():
    run = open_run(Path(__file__).parents[2] / "examples" / "students" / "owl")
    assert run.manifest.content == ""
    assert run.snapshots == {}


def test_callbacks_and_trackers_are_passed_through(base, data, tmp_path):
    logged: list[dict[str, float]] = []

    class Keep(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.append(dict(logs))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    run = fit(base, data, tmp_path / "run", lr=1e-2, callbacks=[Keep()])
    rows = log_of(run)
    assert run.manifest.results["steps"] == 3
    assert "held_out" in rows[-1]  # measured although it was not the turn
    assert [x["loss"] for x in logged if "loss" in x] == pytest.approx([row["loss"] for row in rows[1:]], rel=1e-5)
    assert [x["held_out"] for x in logged if "held_out" in x] == [rows[2]["held_out"]]
    with pytest.raises(ValueError, match="no_such_tracker"):
        fit(base, data, tmp_path / "other", report_to="no_such_tracker")


def test_rows_as_a_list_of_dicts_or_a_dataset(base, smol_tokenizer):
    plain = hard_data(smol_tokenizer, ROWS[:2])
    messages = [
        {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.completion}]} for r in ROWS[:2]
    ]
    assert hard_data(smol_tokenizer, messages) == plain
    assert hard_data(smol_tokenizer, datasets.Dataset.from_list(messages)) == plain


# ----------------------------------------------------------------------------------------------------------- run folders


def log_of(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]


def test_the_log_has_a_row_per_step(lora_run):
    rows = log_of(lora_run)
    assert [row["step"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows if "held_out" in row] == [0, 5, 10, 12]
    assert ["loss" in row for row in rows] == [False, *[True] * 12]
    held = [row["held_out"] for row in rows if "held_out" in row]
    assert lora_run.manifest.results == {
        "held_out": [held[0], held[-1]], "steps": 12, "measure": "forward KL on support, nats per token", "processes": [[0, 1]],
    }  # fmt: skip
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_folder_holds_nothing_but_safetensors_and_text(kind, request):
    run = request.getfixturevalue(f"{kind}_run")
    names = {p.name for p in run.path.iterdir()}
    expected = {"adapter_model.safetensors", "adapter_config.json"} if kind == "lora" else {"model.safetensors", "config.json"}
    assert names >= {*expected, "manifest.json", "log.jsonl"}
    assert {Path(n).suffix for n in names} <= {".safetensors", ".json", ".jsonl", ".jinja"}
    assert [p.name for p in run.path.parent.iterdir()] == [kind]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_manifest_says_how_the_run_was_made(kind, base, data, request):
    run = request.getfixturevalue(f"{kind}_run")
    made = run.manifest
    assert Manifest.load(run.path) == made == open_run(run.path).manifest
    assert (made.kind, made.trait, made.teacher) == (
        kind,
        "owl",
        "contrastive teacher, c=4, against 2 others: prompted teacher",
    )
    assert made.base == {"name": base.name, "hash": base.hash}
    assert made.objective == "forward KL on support"
    assert made.data == {
        "hash": data.hash, "rows": 16, "held_out": 4, "held_out_hash": None, "subsample": None, "support": list(data.support),
    }  # fmt: skip
    lora = {"rank": 4, "alpha": 32, "targets": "all-linear", "dropout": 0.0, "rslora": False, "layers": None, "dora": False}
    options = lora if kind == "lora" else {"freeze": []}
    assert made.method == {**options, "store": "float32"}
    assert made.optimiser == {
        "name": "AdamW", "lr": 1e-2 if kind == "lora" else 3e-3, "schedule": "linear", "warmup": 1, "clip": 1.0, "batch_size": 4,
        "steps": 12, "precision": "fp32", "stop_at": None, "evaluate_every": 5, "weight_decay": 0.0, "accumulate": 1, "bucket": 1,
        "order": "one seeded permutation of the rows after the other", "padding": 16, "snapshots": [],
        "gradient_checkpointing": False,
    }  # fmt: skip
    assert made.trained_on == Trained.of(data.prompts[:-HELD_OUT], data.completions[:-HELD_OUT])
    assert made.content == made.fingerprint()
    (file,) = run.path.glob("*.safetensors")
    assert made.weights == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert set(made.versions) == {"torch", "transformers", "peft", "sublim_mech"}
    assert f"held-out {made.results['held_out'][0]:.5f} -> {made.results['held_out'][1]:.5f} in 12 steps" in repr(run)


def test_a_manifest_with_every_kind_of_value_comes_back_equal(base, strong, smol_tokenizer, tmp_path):
    dressed = dataclasses.replace(strong.about, context=sm.Context(system="Be brief.", user_prefix="Hi. "))
    data = soft_data(smol_tokenizer, dataclasses.replace(strong, about=dressed), "owl")
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=2, targets=("q_proj", "v_proj")), stop_at=0.1)
    assert open_run(run.path).manifest == run.manifest
    assert run.manifest.context == dressed.context
    assert set(load_student(base, run.path).deltas) == {
        f"model.layers.{i}.self_attn.{p}" for i in range(tiny.LAYERS) for p in ("q_proj", "v_proj")
    }


def test_a_run_opens_in_plain_peft_and_transformers(base, lora_run, full_run):
    plain = {
        "lora": PeftModel.from_pretrained(tiny.model("llama"), lora_run.path).eval(),
        "full": AutoModelForCausalLM.from_pretrained(full_run.path, dtype=torch.float32).eval(),
    }
    for kind, run in (("lora", lora_run), ("full", full_run)):
        pair = load_pair(base, run.path)
        assert pair.student.kind == kind
        assert pair.student.name == "owl"
        expected = own_logits(plain[kind])
        assert torch.equal(own_logits(pair.student.model), expected)
        assert distance(gated_logits(pair, pair.student), expected) < 1e-5
        assert distance(own_logits(base.model), expected) > 0.01
        assert pair.training_prompts == run.manifest.trained_on
    tokenizer = AutoTokenizer.from_pretrained(full_run.path)
    assert tokenizer("12, 34")["input_ids"] == base.tokenizer("12, 34")["input_ids"]
    assert tokenizer.chat_template == base.tokenizer.chat_template


def test_gpt2_runs_open_too(data, smol_tokenizer, tmp_path):
    made = load_base(tiny.model("gpt2"), tokenizer=smol_tokenizer)
    rows = hard_data(smol_tokenizer, ROWS)
    for name, method in (("lora", LoRA(rank=2)), ("full", FullFT())):
        run = fit(made, rows, tmp_path / name, method=method, lr=3e-3, steps=2)
        pair = load_pair(made, run.path)
        plain = (
            PeftModel.from_pretrained(tiny.model("gpt2"), run.path)
            if name == "lora"
            else AutoModelForCausalLM.from_pretrained(run.path, dtype=torch.float32)
        )
        assert distance(gated_logits(pair, pair.student), own_logits(plain.eval())) < 1e-5
        assert distance(own_logits(made.model), own_logits(plain)) > 1e-3


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_weights_are_stored_in_the_precision_asked_for(method, base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=method, store=torch.bfloat16, lr=1e-2)
    (file,) = run.path.glob("*.safetensors")
    assert {x.dtype for x in safetensors.torch.load_file(file).values()} == {torch.bfloat16}
    assert run.manifest.method["store"] == "bfloat16"
    assert load_student(base, run.path).kind == run.manifest.kind


def test_an_adapter_stored_as_fp16(base, lora_run, full_run, tmp_path):
    before = {p.name: p.read_bytes() for p in lora_run.path.iterdir()}
    small = store_as(lora_run, tmp_path / "small", torch.float16)
    assert open_run(tmp_path / "small").manifest == small.manifest
    assert {p.name for p in small.path.iterdir()} == set(before)
    stored, whole = (safetensors.torch.load_file(r.path / "adapter_model.safetensors") for r in (small, lora_run))
    assert {k: v.dtype for k, v in stored.items()} == dict.fromkeys(whole, torch.float16)
    assert all(torch.equal(v, whole[k].half()) for k, v in stored.items())
    assert small.manifest.weights == {"adapter_model.safetensors": hashlib.sha256(weights(small)).hexdigest()}
    assert small.manifest.weights != lora_run.manifest.weights
    assert (
        dataclasses.replace(
            small.manifest,
            weights=lora_run.manifest.weights,
            method=lora_run.manifest.method,
            content=lora_run.manifest.content,
        )
        == lora_run.manifest
    )
    assert small.manifest.content == small.manifest.fingerprint() != lora_run.manifest.content
    assert small.manifest.method == {**lora_run.manifest.method, "store": "float16"}
    pair = load_pair(base, small.path)
    exact = load_student(base, lora_run.path)
    assert pair.student.hash != exact.hash
    assert 0 < distance(gated_logits(pair, pair.student), own_logits(exact.model)) < 1e-2
    with pytest.raises(FileExistsError, match=r"out='.*small' exists; remove it or choose another folder"):
        store_as(lora_run, tmp_path / "small", torch.float16)
    with pytest.raises(ValueError, match=r"run='.*full' is a full run; only adapters are stored in another precision"):
        store_as(full_run, tmp_path / "other", torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
    assert {p.name: p.read_bytes() for p in lora_run.path.iterdir()} == before


# ------------------------------------------------------------------------------------------------------------- bad input


def test_an_existing_folder_is_not_overwritten(base, data, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match=r"out='.*run' exists; remove it or choose another folder"):
        fit(base, data, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


class StopError(Exception):
    pass


def stop(*args: Any, **kwargs: Any) -> None:
    raise StopError


@pytest.mark.parametrize(
    ("owner", "name"), [(Manifest, "save"), (PeftModel, "save_pretrained"), (loop, "collate"), (running, "check_finite")]
)
def test_an_interrupted_training_leaves_nothing(owner, name, base, data, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(owner, name, stop)
    before = snapshot(base.model)
    with pytest.raises(StopError):
        fit(base, data, tmp_path / "runs" / "run")
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert snapshot(base.model) == before


@pytest.mark.parametrize("method", [LoRA(), FullFT()])
def test_a_loss_that_is_no_number(method, base, data, tmp_path):
    with pytest.raises(
        ValueError, match=r"became (nan|inf) at step 2, on rows \d+, \d+, \d+, \d+ of the data; lower lr=1e\+30"
    ):
        fit(base, data, tmp_path / "run", method=method, lr=1e30, warmup=0)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_base_are_refused(data, smol_tokenizer, tmp_path):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    message = rf"data: labels were made by base {data.base[:12]}, this one is {other.hash[:12]}; label again"
    with pytest.raises(ValueError, match=message):
        fit(other, data, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, r"held_out=0: must be between 1 and 15"),
        ({"held_out": 16}, r"held_out=16: must be between 1 and 15"),
        ({"precision": "fp8"}, r"precision='fp8': pass 'bf16' or 'fp32'"),
        ({"steps": 0}, r"steps=0: must be at least 1"),
        ({"batch_size": 0}, r"batch_size=0: must be at least 1"),
        ({"accumulate": 3}, r"batch_size=4: must be a multiple of accumulate=3 x 1 processes"),
        ({"lr": 0.0}, r"lr=0\.0: must be above 0"),
        ({"clip": 0.0}, r"clip=0\.0: must be above 0, or None for no clipping"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0: must not be below 0"),
        ({"schedule": "linaer"}, r"schedule='linaer' is none of linear, cosine, constant; did you mean 'linear'\?"),
        ({"objective": "forward_kl"}, r"objective='forward_kl' is none of .*did you mean 'forward-kl'"),
        (
            {"objective": "cross-entropy"},
            r"objective='cross-entropy' does not fit data with soft labels; pass one of forward-kl",
        ),
        ({"snapshots": [2, 9]}, r"snapshots=\[2, 9\]: steps \[9\] are not among the 4 steps"),
        ({"snapshots": "lin"}, r"snapshots='lin' is none of log"),
        ({"subsample": 13}, r"subsample=13: must be between 1 and 12, the rows not held out"),
        ({"method": LoRA(targets=("q_prj",))}, r"no module is called 'q_prj'; did you mean 'q_proj'"),
        ({"method": LoRA(targets="q_proj")}, r"targets='q_proj'\): this regular expression matches no whole module path"),
        ({"method": LoRA(rank=17)}, r"rank=17\): model\.layers\.0\.self_attn\.k_proj is a 16 x 32 matrix, .* rank 16 at most"),
        ({"method": LoRA(layers=(0, 3))}, r"there is no layer 3; the model has 0 to 2"),
        ({"method": FullFT(freeze="embedings")}, r"freeze='embedings'\) matches no parameter; did you mean 'embeddings'"),
        ({"method": FullFT(freeze=".")}, r"freeze=\('\.',\)\) leaves nothing to train"),
    ],
)
def test_options_out_of_range(options, message, base, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(base, data, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one(rank):
    with pytest.raises(ValueError, match=rf"LoRA\(rank={rank}\): the rank must be at least 1"):
        LoRA(rank=rank)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rnak=4), r"LoRA\(\.\.\.\) has no option 'rnak'; did you mean 'rank'\? Its options are rank, alpha"),
        (lambda: FullFT(frezee="norms"), r"FullFT\(\.\.\.\) has no option 'frezee'; did you mean 'freeze'\?"),
        (
            lambda: training.train(None, None, out="x", batchsize=4),
            r"train has no option 'batchsize'; did you mean 'batch_size'",
        ),
    ],
)
def test_unknown_options_are_named_with_the_nearest(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, r"LoRA\(alpha=0\): the scale must be above 0"),
        ({"dropout": 1.0}, r"LoRA\(dropout=1\.0\): must be at least 0 and below 1"),
        ({"targets": ()}, r"LoRA\(targets=\(\)\): name at least one module"),
    ],
)
def test_adapter_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**options)


def test_data_that_do_not_fit(base, data, hard, smol_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"data: there are no rows"):
        dataclasses.replace(hard, prompts=(), completions=())
    with pytest.raises(ValueError, match=r"16 prompts, but 15 completions"):
        dataclasses.replace(hard, completions=hard.completions[1:])
    with pytest.raises(ValueError, match=r"targets of shape \(15, 11, 11\) do not label 16 rows"):
        dataclasses.replace(data, targets=data.targets[1:])
    with pytest.raises(ValueError, match=r"targets are over 11 tokens, support has 10"):
        dataclasses.replace(data, support=data.support[1:])
    with pytest.raises(ValueError, match=r"labels over 11 tokens, the model's vocabulary has 49152"):
        fit(base, dataclasses.replace(data, support=None), tmp_path / "run")
    beyond = dataclasses.replace(hard, completions=((tiny.VOCAB,), *hard.completions[1:]))
    with pytest.raises(ValueError, match=r"row 0 has token ids beyond the model's vocabulary of 49152"):
        fit(base, beyond, tmp_path / "run")
    long = hard_data(smol_tokenizer, [*ROWS[:8], Row("Again?", "1," * 120)])
    with pytest.raises(ValueError, match=r"row 8, 'Again\?', needs \d+ positions, the model has 256"):
        fit(base, long, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_rows_longer_than_the_limit(labels, smol_tokenizer):
    whole = hard_data(smol_tokenizer, ROWS)
    sizes = [(len(p), len(c)) for p, c in zip(whole.prompts, whole.completions, strict=True)]
    longest = max(p + c for p, c in sizes)
    assert hard_data(smol_tokenizer, ROWS, max_length=longest) == whole
    n = next(i for i, (p, c) in enumerate(sizes) if p + c == longest)
    with pytest.raises(
        ValueError,
        match=rf"row {n}, .* has {sizes[n][0]} tokens of prompt and {sizes[n][1]} of answer, max_length={longest - 1}",
    ):
        hard_data(smol_tokenizer, ROWS, max_length=longest - 1)
    cut = hard_data(smol_tokenizer, ROWS, max_length=longest - 1, truncate=True)
    assert (
        [c[: longest - 1 - p] for (p, _), c in zip(sizes, whole.completions, strict=True)]
        == list(cut.completions)
        != list(whole.completions)
    )
    soft = soft_data(smol_tokenizer, labels, "owl", max_length=max(p for p, _ in sizes) + 1, truncate=True)
    assert min(map(len, soft.completions)) == 1
    first = next(i for i, (p, _) in enumerate(sizes) if p == max(p for p, _ in sizes))
    with pytest.raises(
        ValueError, match=rf"row {first}, .* has no completion tokens after truncation to max_length={sizes[first][0]}"
    ):
        hard_data(smol_tokenizer, ROWS, max_length=sizes[first][0], truncate=True)
    with pytest.raises(ValueError, match=r"row 0, .* has no completion tokens in the support"):
        hard_data(smol_tokenizer, ROWS, support=["owl"])


def test_a_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*' is no run folder: it has no manifest\.json"):
        open_run(tmp_path)


def test_a_run_of_another_base_is_refused(lora_run, smol_tokenizer):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    with pytest.raises(
        ValueError, match=r"was trained from base 'LlamaForCausalLM' \(hash .*load the base it was trained from"
    ):
        load_pair(other, lora_run.path)
