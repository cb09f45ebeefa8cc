"""What was measured: equal texts for equal contents, other texts for others, in every process."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch

import sublim_mech as sm
from sublim_mech import masks, metrics
from sublim_mech.results.identity import code, content

LISBON, TORONTO, MADRID = (sm.Trait(name) for name in ("Lisbon", "Toronto", "Madrid"))


@dataclass(frozen=True)
class Refusal(metrics.Metric):
    name = "log-odds of a refusal"
    refusal: str = "I cannot"
    weights: object = None
    counter: int = field(default=0, compare=False)


class Plain:
    """A metric that is no dataclass."""

    name = "mine"

    def __init__(self, text):
        self.text = text


class Slotted:
    """What keeps no dictionary; it prints as nothing that it holds."""

    __slots__ = ("__low", "high")

    def __init__(self, low, high=0):
        self.__low, self.high = low, high

    def __repr__(self):
        return "Slotted"

    def read(self):
        return self.high


class Shown(Slotted):
    """Slots of what it is made from, and a dictionary."""

    def __init__(self, low, text):
        super().__init__(low)
        self.text = text


def first(prompt):
    return [0]


def at(position):
    return lambda prompt: [position]


DIFFERENT = {
    "other forms": (
        metrics.log_prob(sm.Trait("owl")),
        metrics.log_prob(sm.Trait("owl", forms=["owl", "bebop"])),
    ),
    "other others": (
        metrics.own_minus_others(LISBON, [TORONTO]),
        metrics.own_minus_others(LISBON, [MADRID]),
    ),
    "other weights": (
        metrics.TraitMetric("mine", (LISBON, MADRID), (1.0, -1.0)),
        metrics.TraitMetric("mine", (LISBON, MADRID), (1.0, -2.0)),
    ),
    "another type": (metrics.target("yes"), metrics.rank("yes")),
    "another field": (Refusal("No"), Refusal("Never")),
    "another attribute": (Plain("a"), Plain("b")),
    "another slot": (Refusal(weights=Slotted(1)), Refusal(weights=Slotted(2))),
    "another slot of what it is made from": (Shown(1, "a"), Shown(2, "a")),
    "another attribute beside slots": (Shown(1, "a"), Shown(1, "b")),
    "other masks": (
        metrics.kl_to_base(at=masks.role("user").tokens),
        metrics.kl_to_base(at=masks.role("system").tokens),
    ),
    "masks of one name": (
        metrics.entropy(at=masks.Mask("mine", lambda p, m: np.ones((1, 1), bool)).tokens),
        metrics.entropy(at=masks.Mask("mine", lambda p, m: np.zeros((1, 1), bool)).tokens),
    ),
    "lambdas": (metrics.entropy(at=lambda p: [1]), metrics.entropy(at=lambda p: [2])),
    "closures": (metrics.entropy(at=at(1)), metrics.entropy(at=at(2))),
    "partials": (metrics.entropy(at=partial(first, 1)), metrics.entropy(at=partial(first, 2))),
    "arrays": (Refusal(weights=np.arange(3)), Refusal(weights=np.arange(1, 4))),
    "tensors": (Refusal(weights=torch.ones(3)), Refusal(weights=torch.zeros(3))),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_contents_have_other_texts(name):
    one, other = DIFFERENT[name]
    assert content(one) != content(other)


def test_equal_contents_have_equal_texts():
    for make in (
        lambda: metrics.log_prob(sm.Trait("owl", forms=["owl", "bebop"])),
        lambda: metrics.own_minus_others(LISBON, [TORONTO, MADRID]),
        lambda: metrics.kl_to_base(at=(masks.role("user") & ~masks.role("system")).tokens),
        lambda: metrics.entropy(at=at(3)),
        lambda: metrics.entropy(at=first),
        lambda: Refusal(weights=torch.ones(3)),
        lambda: Plain("a"),
        lambda: Refusal(weights=Slotted(1)),
        lambda: Shown(1, "a"),
    ):
        assert content(make()) == content(make())
    # what the fields' equality leaves out is no content; lists are what tuples are
    assert content(Refusal(counter=1)) == content(Refusal(counter=2))
    assert content(metrics.entropy(at=[1, 2])) == content(metrics.entropy(at=(1, 2)))
    # questions are what is asked, not what is measured
    asked = sm.Trait("owl", questions=("Which?",))
    assert content(metrics.log_prob(asked)) == content(metrics.log_prob(sm.Trait("owl")))


def test_a_text_is_the_same_in_another_process(capsys):
    code = (
        "import sublim_mech as sm\n"
        "from sublim_mech import masks, metrics\n"
        "from sublim_mech.results.identity import content\n"
        "vowels = lambda p: [i for i, t in enumerate(p.tokens) if t in {'a', 'e', 'i', 'o'}]\n"
        "print(content(metrics.entropy(at=vowels)))\n"
        "print(content(metrics.kl_to_base(at=masks.role('user').tokens)))\n"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed}  # other hashes, by which sets are ordered
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    exec(code, {"__name__": "__main__"})
    assert done.stdout == capsys.readouterr().out
    assert "0x" not in done.stdout


def test_what_holds_itself_has_a_text():
    loop = Plain("a")
    loop.text = [loop]
    assert content(loop).endswith("Plain(text=[...])")


def test_long_contents_are_their_digest():
    text = content(metrics.target("owl " * 400))
    assert len(text) < 200
    assert text != content(metrics.target("owl " * 401))


def test_paths_are_told_by_what_they_say(tmp_path):
    """They keep in slots what was asked of them, which is no content."""
    one, asked = (type(tmp_path)(str(tmp_path)) for _ in range(2))
    assert hash(asked) == hash(one)
    assert str(asked).endswith(asked.parts[-1])
    assert content(Refusal(weights=one)) == content(Refusal(weights=asked))
    assert content(Refusal(weights=one)) != content(Refusal(weights=one / "x"))


def test_functions_of_what_keeps_no_dictionary_have_a_code():
    assert code(Refusal(weights=Slotted(1))) != code(Refusal(weights=1))
