"""Branches: runs that start at a later block and slot, against whole runs."""

from dataclasses import replace

import pytest
import tiny
import torch
from pairs import TRAIT, put, recorded, student_gates, whole_run

from sublim_mech.engine.answers import build_trie
from sublim_mech.engine.branch import grow
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare

TRIE = build_trie([[(300, 41, 7), (300, 52, 8)]])
EARLY = replace(TRIE, at=(9, 4))


@pytest.mark.parametrize("answers", [TRIE, EARLY], ids=["late reads", "early reads"])
def test_branches_of_any_layer_and_slot_equal_the_trunk(pair, prompts, answers):
    student = student_gates(pair)
    trunk = grow(pair, prompts[1].ids, answers, student)
    with torch.no_grad():
        for layer in range(-1, tiny.LAYERS + 1):
            for slot in {0, 3, trunk.first_read}:
                for row in trunk.branch(layer, slot, 2, gates=student):
                    torch.testing.assert_close(row[None], trunk.done.logits, atol=2e-6, rtol=0)


def test_the_first_read_is_the_earliest_slot_whose_logits_are_taken(llama, prompts):
    ids = prompts[0].ids
    assert grow(llama, ids, TRIE, None).first_read == len(ids) - 1
    assert grow(llama, ids, EARLY, None).first_read == 4
    assert grow(llama, ids, EARLY, None).size == len(ids) + len(TRIE.nodes)


def test_a_trunk_without_gates_is_the_base(pair, prompts):
    trunk = grow(pair, prompts[0].ids, TRIE, None)
    with torch.no_grad():
        plain = pair.run(pair.batch([prompts[0].ids], [TRIE])).logits
    assert torch.equal(trunk.done.logits, plain)
    assert not trunk.done.logits.requires_grad


@pytest.mark.parametrize("into_base", [True, False], ids=["denoising", "noising"])
def test_rows_of_one_forward_are_edited_each_by_itself(pair, prompts, into_base):
    """Three branches, two of them changed, against whole runs with the same edit."""
    prompt = prompts[0]
    student = student_gates(pair)
    recipient, donor = (None, student) if into_base else (student, None)
    answers = prepare(pair, [prompt], TRAIT).answers[0]
    trunk = grow(pair, prompt.ids, answers, recipient)
    key, first = ("mlp_out", 1), len(prompt) - 8
    given = recorded(pair, prompt, key, gates=donor)
    slots = [first, first + 4]

    def edit(hidden):
        hidden = hidden.clone()
        for row, slot in enumerate(slots):
            hidden[row, slot - first] = given[0, slot]
        return hidden

    task = prepare(pair, [prompt], TRAIT)
    with torch.no_grad():
        logits = trunk.branch(1, first, 3, gates=recipient, edits={key: edit})
    values = task.numbers([0, 0, 0], logits)
    for value, slot in zip(values, slots, strict=False):
        expected = whole_run(pair, prompt, gates=recipient, edits={key: put(given, (0, slot))})
        assert value == pytest.approx(expected, abs=5e-6)
    assert values[2] == pytest.approx(whole_run(pair, prompt, gates=recipient), abs=5e-6)
    assert abs(values[0] - values[2]) > 1e-6


@pytest.mark.parametrize("answers", [TRIE, EARLY], ids=["late reads", "early reads"])
def test_forwards_hold_every_branch_once_and_start_no_later(llama, prompts, answers):
    trunk = grow(llama, prompts[1].ids, answers, None)
    first_slots = [7, 0, trunk.size - 1, 3, 3, 20, *range(trunk.size)]
    groups = list(trunk.forwards(first_slots))
    assert len(groups) > 1
    grouped = sorted(index for group in groups for index in group.indices)
    assert grouped == list(range(len(first_slots)))
    for group in groups:
        assert 0 <= group.slot <= min(trunk.first_read, *(first_slots[i] for i in group.indices))
    assert [group.slot for group in groups] == sorted(group.slot for group in groups)


def test_a_branch_of_gates_needs_those_of_its_own_slots_alone(pair, prompts):
    """Gates from the start slot on, on the trunk of a closed row, are the whole row's gates."""
    prompt = prompts[1]
    task = prepare(pair, [prompt], TRAIT)
    slot = 11
    gates = torch.zeros(1, task.size(0), len(pair.delta))
    gates[:, slot:] = 1
    trunk = grow(pair, prompt.ids, task.answers[0], None)
    with torch.no_grad():
        logits = trunk.branch(-1, slot, 1, gates=Gates(pair.student, gates[:, slot:]))
    expected = whole_run(pair, prompt, gates=Gates(pair.student, gates))
    assert task.numbers([0], logits)[0] == pytest.approx(expected, abs=5e-6)
