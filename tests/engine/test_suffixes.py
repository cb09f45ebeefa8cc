"""Packed suffixes are each what it is alone: one model behind the keys and values of another."""

import pairs
import pytest
import torch
from pairs import TRAIT

from sublim_mech.engine import suffixes
from sublim_mech.engine.branch import grow
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.suffixes import packable, packs, run_suffixes
from sublim_mech.instruments.task import prepare


@pytest.fixture(scope="module", params=pairs.PAIRS, ids="-".join)
def grown(request, smol_tokenizer):
    """A pair, its task of one prompt, and the trunks of base and student."""
    import sublim_mech as sm

    pair = pairs.shared_pair(*request.param, smol_tokenizer)
    task = prepare(pair, sm.render(smol_tokenizer, ["Which animal?"]), TRAIT)
    both = (None, Gates(pair.student))
    trunks = [grow(pair, task.prompts[0].ids, task.answers[0], gates) for gates in both]
    return pair, trunks


def test_packed_suffixes_are_whole_gated_runs(grown):
    """The trunk's model before each start, the other one behind it, in a whole forward each."""
    pair, trunks = grown
    starts = [3, 17, 1, 17]
    for trunk, of_trunk in zip(trunks, (0.0, 1.0), strict=True):
        other = None if of_trunk else Gates(pair.student)
        found = run_suffixes(trunk, starts, other)
        for row, start in enumerate(starts):
            gates = torch.full((1, trunk.size), 1 - of_trunk)
            gates[:, :start] = of_trunk
            whole = pair.run(trunk.batch, gates=Gates(pair.student, gates)).logits[0]
            torch.testing.assert_close(found[row], whole, atol=2e-5, rtol=1e-4)


def test_a_suffix_of_the_same_model_gives_the_trunk_again(grown):
    pair, trunks = grown
    for trunk, gates in zip(trunks, (None, Gates(pair.student)), strict=True):
        again = run_suffixes(trunk, [5, 9], gates)
        for row in again:
            torch.testing.assert_close(row, trunk.done.logits[0], atol=2e-5, rtol=1e-4)


def test_packs_hold_every_suffix_once_and_no_more_tokens_than_fit(grown, monkeypatch):
    _, (trunk, _) = grown
    monkeypatch.setattr(suffixes, "TOKENS_ON_CPU", 60)
    starts = list(range(1, trunk.first_read + 1))
    made = list(packs(trunk, starts))
    assert sorted(index for pack in made for index in pack) == list(range(len(starts)))
    for pack in made:
        tokens = sum(trunk.size - starts[index] for index in pack)
        assert tokens <= 60 or len(pack) == 1
    assert packable(trunk, trunk.first_read)
    assert not packable(trunk, trunk.first_read + 1)  # the last prompt token is read there
