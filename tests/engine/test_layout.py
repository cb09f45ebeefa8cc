"""Which rows a model takes is found by a probe, and rows in parts give what the asked rows are."""

import pytest
import stateful
import tiny
import torch

from sublim_mech.engine.answers import Answers, build_trie
from sublim_mech.engine.fitting import find_layout
from sublim_mech.engine.forward import forward
from sublim_mech.engine.layout import TRIE, Layout, length_switches
from sublim_mech.engine.plain import PartedBatch, lay_out
from sublim_mech.models.sites import find_sites

# one form is one token long, two share a node, one branches off behind it
TREE = build_trie([[(5,), (6, 7, 8), (6, 7, 9), (6, 4, 3)]])


def walked(trie: Answers, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.insert(0, node)
        node = trie.parents[node]
    return path


@pytest.mark.parametrize(
    "layout",
    [
        Layout(plain=True),
        Layout(plain=True, padded=False),
        Layout(switches=(10,)),
        Layout(switches=(11,)),
        Layout(switches=(10, 11)),
        Layout(plain=True, switches=(11,)),
    ],
)
@pytest.mark.parametrize("at", [(), (2, 4)])
def test_every_read_stands_once_in_a_row_of_its_own_side(layout, at):
    trie = Answers(TREE.nodes, TREE.parents, TREE.forms, TREE.traits, at)
    length, seen = 10, {}
    for strand in layout.strands(length, trie):
        side = layout.side(len(strand.slots))
        for read, place in strand.reads.items():
            assert read not in seen
            seen[read] = strand.slots[place]
            inside = 0 < read <= len(trie.nodes)
            row_end = place + 1 if inside else length
            assert layout.side(row_end) == side
            if inside:
                chain = [length + node for node in walked(trie, read - 1)]
                assert strand.slots[: place + 1] == (*range(length), *chain)
    assert sorted(seen) == list(range(trie.reads))
    assert seen[0] == length - 1
    assert [seen[1 + n] for n in range(len(trie.nodes))] == [
        length + n for n in range(len(trie.nodes))
    ]


def test_switches_are_those_of_longrope():
    assert length_switches(stateful.longrope(24).config) == (24,)
    assert length_switches(tiny.CONFIGS["phi3"]()) == ()
    by_type = tiny.CONFIGS["gemma3"]()
    by_type.rope_parameters = {
        "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 40},
        "sliding_attention": {"rope_type": "default"},
    }
    assert length_switches(by_type) == (40,)


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_attention_takes_the_trie(architecture):
    model = tiny.model(architecture)
    assert find_layout(model, find_sites(model)) == TRIE


@pytest.mark.parametrize("architecture", list(stateful.CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_takes_plain_rows(architecture, dtype):
    model = stateful.model(architecture).to(dtype)
    assert find_layout(model, find_sites(model)) == Layout(plain=True)


def test_rows_in_parts_are_the_rows_that_were_asked_for():
    """On a model that takes the trie both layouts are the same, with their gradients."""
    base = tiny.model("llama").double()
    sites = find_sites(base)
    prompts = [list(range(3, 15)), list(range(40, 46))]
    answers = [TREE, build_trie([[(9, 8)]])]
    whole = lay_out(base, prompts, answers)
    parted = lay_out(base, prompts, answers, Layout(plain=True))
    assert isinstance(parted, PartedBatch)
    assert torch.equal(parted.ids, whole.ids)
    assert torch.equal(parted.reads, whole.reads)
    width = whole.ids.shape[1]
    mine = torch.arange(width)[None] < torch.tensor(whole.sizes)[:, None]

    key = ("resid_mid", 1)
    found = []
    for batch in (whole, parted):
        shift = torch.zeros(2, width, 32, dtype=torch.float64, requires_grad=True)
        edits = {key: lambda hidden, shift=shift: hidden + shift}
        done = forward(base, sites, batch, edits=edits, record=[key])
        (slope,) = torch.autograd.grad(done.logits.square().sum(), shift)
        found.append((done.logits, done.activations[key][mine], slope[mine]))
    for asked, given in zip(*found, strict=True):
        assert (given - asked).norm() < 1e-5 * asked.norm()


def test_rows_in_parts_take_no_start_and_no_past():
    model = tiny.model("llama")
    batch = lay_out(model, [[1, 2, 3]], layout=Layout(plain=True))
    sites = find_sites(model)
    with pytest.raises(ValueError, match="whole forwards"):
        forward(model, sites, batch, past=())
    with pytest.raises(ValueError, match="computed whole"):
        batch.after(1)
