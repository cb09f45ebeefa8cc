"""Unembeddings in fp32, of all tokens or of a few, against the plain product."""

import pytest
import tiny
import torch
from torch import nn

from sublim_mech.engine.heads import ExactHead, SupportHead, exact_logits, pad, support_ids

TOKENS = (5, 0, 9)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def head(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(8, 12, bias=request.param)


@pytest.fixture
def hidden():
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))


def test_all_logits_are_the_heads_own(head, hidden):
    assert torch.equal(exact_logits(head, hidden), head(hidden))


def test_logits_of_a_few_tokens_are_theirs(head, hidden):
    few = exact_logits(head, hidden, torch.tensor(TOKENS))
    torch.testing.assert_close(few, head(hidden)[..., list(TOKENS)], atol=1e-6, rtol=0)


def test_half_precision_and_autocast_are_computed_in_fp32(head, hidden):
    rough = nn.Linear(8, 12, bias=head.bias is not None).bfloat16()
    rough.load_state_dict(head.state_dict())
    half = hidden.bfloat16()
    expected = half.double() @ rough.weight.double().T
    if rough.bias is not None:
        expected = expected + rough.bias.double()
    with torch.autocast("cpu", torch.bfloat16):
        logits = exact_logits(rough, half)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, atol=1e-6, rtol=0)


def test_a_support_head_gives_its_tokens_and_trains_the_whole_weight(head, hidden):
    support = SupportHead(head, TOKENS)
    logits = support(hidden)
    torch.testing.assert_close(logits, head(hidden)[..., list(TOKENS)], atol=1e-6, rtol=0)
    logits.sum().backward()
    touched = head.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == sorted(TOKENS)


@pytest.mark.parametrize("tokens", [None, TOKENS])
def test_a_head_is_replaced_for_as_long_as_the_context_lasts(head, hidden, tokens):
    before = head(hidden)
    with ExactHead(tokens).in_place_of(head):
        inside = head(hidden)
    expected = before if tokens is None else before[..., list(tokens)]
    torch.testing.assert_close(inside, expected, atol=1e-6, rtol=0)
    assert "forward" not in vars(head)
    assert torch.equal(head(hidden), before)


def test_a_head_comes_back_after_an_exception(head, hidden):
    with pytest.raises(KeyboardInterrupt), ExactHead(TOKENS).in_place_of(head):
        raise KeyboardInterrupt
    assert "forward" not in vars(head)
    assert head(hidden).shape[-1] == 12


def test_an_unembedding_that_is_more_than_a_matrix_keeps_its_own_way(hidden):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled(8, 12)
    before = doubled(hidden)
    with ExactHead().in_place_of(doubled):
        assert torch.equal(doubled(hidden), before)


@pytest.mark.parametrize("tokens", [None, TOKENS])
def test_a_forward_takes_one_in_place_of_the_models_own(llama, prompts, tokens):
    batch = llama.batch([prompts[0].ids])
    with torch.no_grad():
        own = llama.run(batch).logits
        exact = llama.run(batch, unembed=ExactHead(tokens)).logits
    expected = own if tokens is None else own[..., list(tokens)]
    torch.testing.assert_close(exact, expected, atol=1e-6, rtol=0)


def test_rows_are_padded_on_the_right():
    assert pad([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert pad([[1, 2, 3], [4]], 4).tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    assert pad([[1, 2, 3, 4]], 4).tolist() == [[1, 2, 3, 4]]


def test_what_stands_on_the_right_changes_nothing_on_the_left():
    model = tiny.model("llama")
    rows = [[5, 6, 7, 8], [9, 10]]
    with torch.no_grad():
        padded = model(input_ids=pad(rows, 8)).logits
        for row, ids in enumerate(rows):
            alone = model(input_ids=torch.tensor([ids])).logits[0]
            torch.testing.assert_close(padded[row, : len(ids)], alone, atol=1e-6, rtol=0)


def test_tokens_of_a_support_are_single_ones(smol_tokenizer):
    ids = support_ids(smol_tokenizer, ["1", "2", ","])
    assert [smol_tokenizer.decode([token]) for token in ids] == ["1", "2", ","]
    message = r"support token 'zyzzyva' is \d tokens in this tokenizer; list single"
    with pytest.raises(ValueError, match=message):
        support_ids(smol_tokenizer, ["1", "zyzzyva"])
