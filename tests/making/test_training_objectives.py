"""Losses in closed form, and an unembedding that is computed where a loss is taken."""

import dataclasses
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from trainings import (
    FEW,
    ROWS,
    labelled,
    plain_kl,
    plain_logits,
    plain_loss,
    small_base,
    small_model,
    softmax_over,
)

from sublim_mech.making.training import OBJECTIVES, TrainingData, hard_data
from sublim_mech.making.training.batches import collate, item
from sublim_mech.making.training.objectives import (
    AnswerHead,
    answer_losses,
    choose_objective,
    token_losses,
)
from sublim_mech.models.copies import share

SOFT = OBJECTIVES[1:]


def batch_of(data: TrainingData, rows: list[int]) -> dict[str, Tensor]:
    return collate([item(data, row) for row in rows])


def with_answer_head(model: Any) -> tuple[Any, AnswerHead]:
    """A copy of a model that shares its weights, its unembedding an `AnswerHead`."""
    copied = share(model)
    head = AnswerHead(copied.get_output_embeddings())
    copied.set_output_embeddings(head)
    return copied, head


def loss_of(model: Any, data: TrainingData, rows: list[int], objective: str) -> Tensor:
    """Mean loss per token by the trainer's own path."""
    copied, head = with_answer_head(model)
    return answer_losses(copied, head, batch_of(data, rows), objective, data.support).mean()


# ------------------------------------------------------------------------------------- closed forms


def gradient(objective: str, z: Tensor, t: Tensor) -> Tensor:
    """d loss / d z in closed form."""
    q, p = z.softmax(-1), t.softmax(-1)
    if objective == "forward-kl":
        return q - p
    if objective == "reverse-kl":
        return q * (q.log() - p.log() - (q * (q.log() - p.log())).sum())
    gap = z - z.mean() - (t - t.mean())
    return 2 * gap / len(z)


@pytest.mark.parametrize("objective", SOFT)
def test_soft_losses_and_their_gradients_in_closed_form(objective):
    torch.manual_seed(0)
    z = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    t = torch.randn(5, 7, dtype=torch.double)
    losses = token_losses(objective, z, t.log_softmax(-1))
    losses.sum().backward()
    for i in range(5):
        expected = float(plain_loss(objective, z[i].detach(), t[i]))
        assert float(losses[i].detach()) == pytest.approx(expected, abs=1e-12)
        assert torch.allclose(z.grad[i], gradient(objective, z[i].detach(), t[i]), atol=1e-12)
    shifted = token_losses(objective, z + 3.0, t.log_softmax(-1))  # a constant softmax ignores
    assert torch.allclose(shifted, losses, atol=1e-12)
    assert float(token_losses(objective, t, t.log_softmax(-1)).abs().max()) < 1e-12


def test_cross_entropy_and_its_gradient_in_closed_form():
    torch.manual_seed(0)
    z = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    right = torch.tensor([0, 3, 6, 6, 2])
    losses = token_losses("cross-entropy", z, right)
    losses.sum().backward()
    q = z.detach().softmax(-1)
    assert torch.allclose(losses.detach(), -q[range(5), right].log(), atol=1e-12)
    q[range(5), right] -= 1
    assert torch.allclose(z.grad, q, atol=1e-12)


@pytest.mark.parametrize("objective", ["forward-kl", "reverse-kl"])
def test_top_k_losses_are_those_with_all_other_tokens_as_one_outcome(objective):
    torch.manual_seed(1)
    z = torch.randn(4, 9, dtype=torch.double, requires_grad=True)
    t = 2 * torch.randn(4, 9, dtype=torch.double)
    top, tokens = t.log_softmax(-1).topk(3)
    losses = token_losses(objective, z, top, tokens)
    (slopes,) = torch.autograd.grad(losses.sum(), z)
    outcomes = torch.eye(9, dtype=torch.double)
    for i in range(4):
        listed = tokens[i].tolist()
        others = [token for token in range(9) if token not in listed]
        merge = torch.stack([*outcomes[listed], outcomes[others].sum(0)])  # (k + 1, token)
        own_z = z[i].detach().requires_grad_()
        q, p = merge @ own_z.softmax(-1), merge @ t[i].softmax(-1)
        plain = plain_loss(objective, q.log(), p.log())
        (slope,) = torch.autograd.grad(plain, own_z)
        assert float(losses[i].detach()) == pytest.approx(float(plain.detach()), abs=1e-9)
        assert torch.allclose(slopes[i], slope, atol=1e-9)
    # merging outcomes can only lower a KL
    unmerged = float(plain_loss("forward-kl", z[0].detach(), t[0]))
    merged = token_losses("forward-kl", z.detach(), top, tokens)
    assert float(merged[0]) < unmerged


@pytest.mark.parametrize("objective", SOFT)
def test_a_top_k_label_of_all_tokens_is_a_label_over_the_vocabulary(objective):
    torch.manual_seed(3)
    z = torch.randn(4, 6, dtype=torch.double)
    goal = torch.randn(4, 6, dtype=torch.double).log_softmax(-1)
    top, tokens = goal.topk(6)
    whole = token_losses(objective, z, goal)
    assert torch.allclose(token_losses(objective, z, top, tokens), whole, atol=1e-12)


@pytest.mark.parametrize("objective", ["forward-kl", "reverse-kl"])
def test_a_top_k_label_that_leaves_nothing_to_other_tokens_has_a_finite_loss(objective):
    goal, tokens = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0, 1]])
    assert token_losses(objective, torch.zeros(1, 5), goal, tokens).isfinite().all()


def test_top_k_mse_looks_at_the_k_logits_alone():
    torch.manual_seed(2)
    z, t = torch.randn(4, 9, dtype=torch.double), torch.randn(4, 9, dtype=torch.double)
    top, tokens = t.log_softmax(-1).topk(3)
    losses = token_losses("logit-mse", z, top, tokens)
    for i in range(4):
        plain = float(plain_loss("logit-mse", z[i][tokens[i]], t[i][tokens[i]]))
        assert float(losses[i]) == pytest.approx(plain, abs=1e-12)


# ----------------------------------------------------------------------------------- against models


def test_the_hard_loss_is_transformers_own(small, hard):
    rows = [0, 3, 5]
    width = max(hard.lengths[row] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        prompt = hard.prompts[row].ids
        whole = torch.tensor([*prompt, *hard.completions[row]])
        ids[i, : len(whole)] = whole
        labels[i, len(prompt) : len(whole)] = whole[len(prompt) :]
    with torch.no_grad():
        of_transformers = float(small.model(input_ids=ids, labels=labels).loss)
        ours = float(loss_of(small.model, hard, rows, "cross-entropy"))
    assert ours == pytest.approx(of_transformers, abs=1e-5)
    assert ours > 5  # a random model


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("objective", SOFT)
@pytest.mark.parametrize("kind", ["listed", "full", "top-k"])
def test_losses_of_padded_batches_are_those_of_full_forwards(
    kind, objective, architecture, hard, smol_tokenizer
):
    model, rows = small_base(smol_tokenizer, architecture).model, [1, 2]
    data = labelled(hard, kind)
    with torch.no_grad():
        batched = float(loss_of(model, data, rows, objective))
    terms = []
    for row in rows:
        for place, z in enumerate(plain_logits(data, model, row)):
            t = torch.tensor(data.targets[row, place], dtype=torch.double)
            if kind == "top-k":
                tokens = torch.tensor(data.tokens[row, place])
                terms.append(token_losses(objective, z[None], t[None], tokens[None])[0])
            else:
                outcomes = z[list(data.support)] if kind == "listed" else z
                terms.append(plain_loss(objective, outcomes, t))
    assert batched == pytest.approx(float(torch.stack(terms).mean()), rel=2e-5, abs=5e-7)


def test_hard_rows_on_a_support(tiny_llama, smol_tokenizer):
    """Commas and the end of turn are outside of the support: neither labels nor outcomes."""
    model = tiny_llama.model
    digits = hard_data(smol_tokenizer, ROWS, support=[*"0123456789"])
    terms = []
    for row in (0, 3):
        logits = plain_logits(digits, model, row)
        for z, token in zip(logits, digits.completions[row], strict=True):
            if token in digits.support:
                slot = digits.support.index(token)
                terms.append(-softmax_over(digits.support, z)[slot])
    assert len(terms) == 2 * 9
    with torch.no_grad():
        loss = float(loss_of(model, digits, [0, 3], "cross-entropy"))
    assert loss == pytest.approx(float(sum(terms)) / 18, abs=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_unembedding_is_computed_at_answer_tokens_only(kind, small, soft, hard):
    data, rows = soft if kind == "soft" else hard, [0, 4]
    model, head = with_answer_head(small.model)
    reached: list[Tensor] = []
    made: list[Tensor] = []

    def watch(_: Any, inputs: Any) -> tuple[Tensor]:
        reached.append(inputs[0].detach().requires_grad_())
        return (reached[0],)

    head.register_forward_pre_hook(watch)
    head.register_forward_hook(lambda _, inputs, logits: made.append(logits))
    objective = "forward-kl" if kind == "soft" else "cross-entropy"
    losses = answer_losses(model, head, batch_of(data, rows), objective, data.support)
    losses.sum().backward()

    moves_loss = reached[0].grad.abs().sum(-1) > 0  # (row, position)
    expected = torch.zeros_like(moves_loss)
    for i, row in enumerate(rows):
        first = len(data.prompts[row]) - 1
        expected[i, first : first + len(data.completions[row])] = True
    assert torch.equal(moves_loss, expected)
    outcomes = len(data.support) if kind == "soft" else FEW
    assert made[0].shape == (expected.sum(), outcomes)


@pytest.mark.parametrize("kind", ["listed", "full"])
def test_soft_losses_are_exact_under_autocast(kind, hard):
    """The body in bf16 and the unembedding in fp32.

    So a student equal to its labels has no loss but that of the body's rounding.
    """
    data = labelled(hard, kind)
    model, head = with_answer_head(small_model())
    batch = batch_of(data, [0, 1])
    reached: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = answer_losses(model, head, batch, "forward-kl", data.support)
    z = reached[0].double()[batch["row"], batch["column"]] @ head.head.weight.double().T
    if data.support is not None:
        z = z[:, list(data.support)]
    pairs = zip(z, batch["goal"].double(), strict=True)
    expected = torch.stack([plain_loss("forward-kl", row, t) for row, t in pairs])
    assert float((losses - expected).abs().max()) < 2e-6


def test_an_adapter_on_the_unembedding_is_heard_in_soft_losses(small, soft):
    model = tiny.lora(small.model, target_modules=["lm_head", "q_proj"])
    inner = model.get_base_model()
    expected = plain_kl(soft, model, [0, 1])
    head = AnswerHead(inner.get_output_embeddings())
    inner.set_output_embeddings(head)
    with torch.no_grad():
        losses = answer_losses(model, head, batch_of(soft, [0, 1]), "forward-kl", soft.support)
    assert float(losses.mean()) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(plain_kl(soft, small.model, [0, 1]), rel=1e-2)


def test_the_objective_fits_the_labels(hard, soft):
    assert (choose_objective(None, hard), choose_objective(None, soft)) == (
        "cross-entropy",
        "forward-kl",
    )
    assert [choose_objective(objective, soft) for objective in SOFT] == [*SOFT]
    with pytest.raises(ValueError, match=r"does not fit data with hard rows; pass one of cross-en"):
        choose_objective("forward-kl", hard)
    with pytest.raises(ValueError, match=f"soft labels; pass one of {', '.join(SOFT)}, or"):
        choose_objective("cross-entropy", soft)
    on_support = dataclasses.replace(hard, support=(1, 2))
    assert choose_objective(None, on_support) == "cross-entropy"
