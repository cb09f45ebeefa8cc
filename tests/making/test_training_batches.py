"""Items and batches: where labels stand, and how few shapes there are."""

import dataclasses

import pytest
import torch
from trainings import FEW, MIXED, SUPPORT, labelled, small_hard

from sublim_mech.making.training import TrainingData
from sublim_mech.making.training.batches import PAD, collate, count_labels, item


@pytest.fixture(scope="module")
def mixed(smol_tokenizer) -> TrainingData:
    """Rows of several lengths."""
    return small_hard(smol_tokenizer, MIXED)


def on_support(data: TrainingData) -> TrainingData:
    """Hard rows of which every other token has a label."""
    tokens = sorted({token for completion in data.completions for token in completion})
    return dataclasses.replace(data, support=tuple(tokens[::2]))


def test_few_shapes_occur(mixed):
    assert len(set(mixed.lengths)) > 5
    widths = {collate([item(mixed, row)])["ids"].shape[1] for row in range(16)}
    assert {width % 16 for width in widths} == {0}
    assert PAD == 16


@pytest.mark.parametrize("kind", ["hard", "hard on a support", "listed", "top-k", "full"])
def test_labels_stand_where_their_tokens_are_predicted(kind, mixed):
    if kind.startswith("hard"):
        data = mixed if kind == "hard" else on_support(mixed)
    else:
        data = labelled(mixed, kind)
    rows = [2, 0, 5]
    batch = collate([item(data, row) for row in rows])
    assert batch["index"].tolist() == rows
    places = []  # (row of the batch, row of the data, place in its answer)
    for i, row in enumerate(rows):
        for place, token in enumerate(data.completions[row]):
            if kind != "hard on a support" or token in data.support:
                places.append((i, row, place))
    assert len(places) == sum(count_labels(data, row) for row in rows)
    assert batch["row"].tolist() == [i for i, _, _ in places]

    predicted = batch["ids"][batch["row"], batch["column"] + 1].tolist()
    assert predicted == [data.completions[row][place] for _, row, place in places]
    for goal, token, (_, row, place) in zip(batch["goal"], predicted, places, strict=True):
        if kind == "hard":
            assert goal == token
        elif kind == "hard on a support":
            assert data.support[goal] == token
        else:
            assert torch.equal(goal, torch.from_numpy(data.targets[row, place]))
    assert ("tokens" in batch) == (kind == "top-k")
    if kind == "top-k":
        expected = torch.stack([torch.from_numpy(data.tokens[row, k]) for _, row, k in places])
        assert torch.equal(batch["tokens"], expected)
    widths = {"listed": len(SUPPORT), "top-k": 5, "full": FEW}
    assert batch["goal"].shape[1:] == ((widths[kind],) if kind in widths else ())
