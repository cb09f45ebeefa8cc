"""Batches: each row's tokens, positions, mask and read slots, against their definition."""

import pytest
import tiny
import torch

from sublim_mech.engine.answers import NO_ANSWERS, Answers
from sublim_mech.engine.batch import attention_masks, make_batch

PROMPTS = [[11, 12, 13, 14, 15], [21, 22, 23]]
FORKED = Answers(nodes=(6, 7, 9, 4), parents=(-1, 0, 0, -1), at=(1, 3))
TRIES = [FORKED, NO_ANSWERS]


def visible(mask):
    """What each query sees, `(row, query, key)` bool, from an additive mask."""
    return mask[:, 0] == 0


@pytest.fixture(scope="module")
def llama():
    return tiny.model("llama")


@pytest.fixture
def batch(llama):
    return make_batch(llama, PROMPTS, TRIES)


def test_rows_hold_prompts_then_nodes(batch):
    assert batch.ids.tolist() == [[11, 12, 13, 14, 15, 6, 7, 9, 4], [21, 22, 23, *[0] * 6]]
    assert batch.sizes == (9, 3)


def test_a_node_stands_at_its_depth_behind_the_prompt(batch):
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 5]
    assert batch.positions[1, :3].tolist() == [0, 1, 2]


def test_reads_are_the_last_token_the_nodes_and_what_is_asked_for(batch):
    assert batch.reads[0].tolist() == [4, 5, 6, 7, 8, 1, 3]
    assert batch.reads[1].tolist() == [2] * 7  # a row with fewer reads its last token again


def test_a_node_sees_the_prompt_its_ancestors_and_itself(batch):
    seen = visible(batch.mask)[0]
    prompt = [0, 1, 2, 3, 4]
    expected = {5: [5], 6: [5, 6], 7: [5, 7], 8: [8]}
    for token in prompt:
        assert seen[token].nonzero().flatten().tolist() == prompt[: token + 1]
    for slot, nodes in expected.items():
        assert seen[slot].nonzero().flatten().tolist() == prompt + nodes


def test_a_node_far_down_sees_all_its_ancestors(llama):
    chain = Answers(nodes=(6, 7, 9, 4, 5), parents=(-1, 0, 1, 1, 3))
    seen = visible(make_batch(llama, [[11, 12]], [chain]).mask)[0]
    assert seen[4].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert seen[5].nonzero().flatten().tolist() == [0, 1, 2, 3, 5]
    assert seen[6].nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 6]


def test_nothing_sees_padding_and_padding_sees_itself_alone(batch):
    seen = visible(batch.mask)[1]
    assert not seen[:3, 3:].any()
    assert torch.equal(seen[3:, 3:], torch.eye(6, dtype=torch.bool))


def test_without_answers_rows_end_at_the_prompt(llama):
    batch = make_batch(llama, PROMPTS)
    assert batch.sizes == (5, 3)
    assert batch.reads.tolist() == [[4], [2]]


def test_a_batch_from_a_slot_on_keeps_the_keys_before_it(batch):
    late = batch.after(2)
    assert torch.equal(late.ids, batch.ids[:, 2:])
    assert torch.equal(late.positions, batch.positions[:, 2:])
    assert torch.equal(late.mask, batch.mask[:, :, 2:])
    assert torch.equal(late.reads, batch.reads - 2)
    assert late.sizes == (7, 1)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_one_row_expanded_is_that_row_many_times(architecture):
    model = tiny.model(architecture)
    many = make_batch(model, PROMPTS[:1], TRIES[:1]).expand(3)
    repeated = make_batch(model, PROMPTS[:1] * 3, TRIES[:1] * 3)
    assert many.sizes == repeated.sizes
    for field in ("ids", "positions", "reads"):
        assert torch.equal(getattr(many, field), getattr(repeated, field))
    if torch.is_tensor(many.mask):
        assert torch.equal(many.mask, repeated.mask)
        return
    assert many.mask.keys() == repeated.mask.keys()
    assert all(torch.equal(mask, repeated.mask[kind]) for kind, mask in many.mask.items())


def test_windows_count_positions_not_slots():
    """A branch's second node is two slots behind its parent, but one position."""
    trie = Answers(nodes=(6, 9, 7), parents=(-1, -1, 0))
    model = tiny.model("mistral")
    model.config.sliding_window = 3
    mask = make_batch(model, [[11, 12, 13, 14]], [trie]).mask
    seen = visible(mask if torch.is_tensor(mask) else mask["sliding_attention"])[0]
    assert seen[3].nonzero().flatten().tolist() == [1, 2, 3]
    assert seen[6].nonzero().flatten().tolist() == [3, 4, 6]  # a token, node 0, itself


def test_a_mask_per_type_of_layer_where_a_model_has_several():
    masks = make_batch(tiny.model("gemma3"), [list(range(1, 21))]).mask
    assert set(masks) == {"sliding_attention", "full_attention"}
    full, sliding = (visible(masks[kind])[0] for kind in ("full_attention", "sliding_attention"))
    order = torch.arange(20)
    causal = order[None] <= order[:, None]
    assert torch.equal(full, causal)
    assert torch.equal(sliding, causal & (order[:, None] - order[None] < 16))


def test_masks_have_the_models_type_and_its_least_number():
    model = tiny.model("llama").bfloat16()
    mask = make_batch(model, PROMPTS).mask
    assert mask.dtype == torch.bfloat16
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}


def test_masks_of_queries_that_stand_behind_other_keys(llama):
    sees = torch.ones(1, 1, 4, dtype=torch.bool)
    keys = torch.arange(4)[None]
    mask = attention_masks(llama.config, sees, keys[:, 3:], keys, dtype=torch.float64)
    assert mask.shape == (1, 1, 1, 4)
    assert mask.dtype == torch.float64
    assert not mask.any()
