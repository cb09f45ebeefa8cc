"""Metrics: one number per prompt, read off the next-token logits of the prompt and of its answers.

A metric says which answers it needs (`answers`: what is fed after the prompt, and which slots are
read) and how it reads their logits (`read`). Every instrument takes any metric; gradients need one
that is differentiable.

1. Each answer is scored as a whole string of tokens after the prompt (`engine.answers`).
2. Of a trait, the strings are its forms, and their probabilities are summed. A form that merely
   continues another one of the same trait (`owl` + `s`) is dropped, because the shorter one already
   contains it: what is summed are disjoint events.

A metric is what its fields say, not what it is called (`results.identity`); its name tells it apart
from others as far as a line can. A metric of one's own is a dataclass of ten lines, see `Metric`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import checked, shown
from .engine.answers import Answers, Path, build_trie, shortest_paths
from .hints import counted
from .prompts import Prompt, Trait, completion_ids
from .prompts.blank import is_blank
from .prompts.notices import said_before
from .prompts.places import positions_of
from .prompts.trait import noun_forms
from .results.record import Forms

_NAMED = 6  # traits or forms that a name lists before it says how many more there are


@runtime_checkable
class Metric(Protocol):
    """What is measured: one number per prompt.

    Attributes:
        name: how it is printed.
        unit: unit of the value.
        differentiable: whether gradients through `read` say something.
        needs_base: whether `read` needs the base model's logits at the same slots.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Refusal(sm.metrics.Metric):
        ...     name = "log-odds of a refusal"
        ...     refusal: str = "I cannot"
        ...     compliance: str = "Sure"
        ...
        ...     def answers(self, tokenizer, prompt):
        ...         return sm.metrics.strings(tokenizer, prompt, [self.refusal, self.compliance])
        ...
        ...     def read(self, logits, answers, base=None):
        ...         log_probs = sm.metrics.string_log_probs(logits, answers)  # (row, string)
        ...         return log_probs[:, 0] - log_probs[:, 1]
        >>> sm.effect(pair, prompts, Refusal(), progress=False).unit
        'nats'
    """

    name: str
    unit: str = "nats"
    differentiable: bool = True
    needs_base: bool = False

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """What is fed after a prompt, and where logits are read."""
        ...

    def read(
        self,
        logits: Float[Tensor, "row read vocab"],
        answers: Sequence[Answers],
        base: Float[Tensor, "row read vocab"] | None = None,
    ) -> Float[Tensor, "row"]:
        """The metric of each row.

        Args:
            logits: next-token logits at the read slots: the last prompt token, the nodes of the
                answer trie, further prompt tokens (`Answers`); rows with fewer are padded.
            answers: of each row.
            base: the base model's logits at the same slots, where the metric needs them.
        """
        ...


@checked
def as_metric(trait: Trait | Metric) -> Metric:
    """The metric itself, or the default metric of a trait.

    Raises:
        TypeError: a metric of one's own without a name, or whose methods take something else.
    """
    if isinstance(trait, Trait):
        return log_prob(trait)
    kind = type(trait).__name__
    for told in ("name", "unit"):
        text = getattr(trait, told, None)
        if not isinstance(text, str) or is_blank(text):
            raise TypeError(
                f"metric {kind}: its {told} is {shown(text)}; give a text, such as "
                f"{told} = {'log-odds of a refusal' if told == 'name' else 'nats'!r}."
            )
    for method, taken in _TAKEN.items():
        try:
            signature = inspect.signature(getattr(trait, method))
        except ValueError:  # written in C
            continue
        try:
            signature.bind(*taken)
        except TypeError as error:
            raise TypeError(
                f"metric {trait.name!r}: {method}{signature} is called as "
                f"{method}({', '.join(taken)}); write it so."
            ) from error
    return trait


_TAKEN = {"answers": ("tokenizer", "prompt"), "read": ("logits", "answers", "base")}
"""What the methods of a metric are given."""


# ------------------------------------------------------------------------------------------- traits


@checked
@dataclass(frozen=True)
class TraitMetric(Metric):
    """A linear combination of trait log-probabilities.

    Attributes:
        name: how it is printed.
        traits: the traits whose log-probability (summed over forms) is taken; kept as a tuple.
        weights: one per trait; kept as a tuple.
        unit: unit of the value.
    """

    name: str
    traits: Sequence[Trait]
    weights: Sequence[float]
    unit: str = "nats"

    def __post_init__(self) -> None:
        # the caller's list may change afterwards
        object.__setattr__(self, "traits", tuple(self.traits))
        object.__setattr__(self, "weights", tuple(self.weights))
        if not self.traits or len(self.traits) != len(self.weights):
            raise ValueError(
                f"TraitMetric: {counted(len(self.traits), 'trait')} and "
                f"{counted(len(self.weights), 'weight')}; give one weight per trait."
            )

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """The forms of all traits."""
        return trait_forms(tokenizer, prompt, self.traits)

    def read(
        self, logits: Tensor, answers: Sequence[Answers], base: Tensor | None = None
    ) -> Tensor:
        """See `Metric`."""
        forms = string_log_probs(logits, answers)
        log_probs = by_trait(forms, answers, len(self.traits)).logsumexp(-1)  # (row, trait)
        value = log_probs.new_zeros(len(answers))
        for weight, log_p in zip(self.weights, log_probs.unbind(1), strict=True):
            value = value + weight * log_p
        return value


@checked
def log_prob(trait: Trait) -> TraitMetric:
    """Log P(the answer starts with a form of the trait), summed over its forms, in nats: the
    default metric.

    What follows the form is not checked: where `catfish` is the tokens `cat` + `fish`, it is part
    of `cat`.

    Forms that are not those of the trait's name are part of the metric's name.

    Example:
        >>> sm.metrics.log_prob(sm.animal("owl")).name
        'log P(owl)'
        >>> sm.metrics.log_prob(sm.Trait.noun("owl", aliases=["barn owl"])).name
        'log P(owl or barn owl)'
    """
    return TraitMetric(f"log P({_event(trait)})", (trait,), (1.0,))


@checked
def own_minus_others(trait: Trait, others: Sequence[Trait]) -> TraitMetric:
    """Log P(trait) minus the mean log P of other traits, in nats: what is specific to the trait.

    Raises:
        ValueError: no others; one that shares a form with the trait or with another one.

    Example:
        >>> others = [sm.animal("cat"), sm.animal("wolf")]
        >>> metric = sm.metrics.own_minus_others(sm.animal("owl"), others)
        >>> metric.name, metric.weights
        ('log P(owl) - mean log P(cat, wolf)', (1.0, -0.5, -0.5))
    """
    if len(others) == 0:
        raise ValueError("own_minus_others: others is empty; pass at least one other trait.")
    for place, other in enumerate(others):
        _check_other(place, other, (trait, *others[:place]))
    weights = (1.0, *(-1.0 / len(others) for _ in others))
    mean = "mean " if len(others) > 1 else ""
    name = f"log P({_event(trait)}) - {mean}log P({_listed([_event(one) for one in others])})"
    return TraitMetric(name, (trait, *others), weights)


def _check_other(place: int, other: Trait, before: Sequence[Trait]) -> None:
    """Refuse a trait that is, in a form, one of those before it: own, then the other others."""
    for number, trait in enumerate(before):
        both = [form for form in other.forms if form in trait.forms]
        if both:
            whose = "the trait itself" if number == 0 else f"others[{number - 1}]"
            raise ValueError(
                f"own_minus_others(others=[...]): others[{place}], {other.name!r}, shares the form "
                f"{both[0]!r} with {whose}, {trait.name!r}, so that a part of one is subtracted "
                "from itself or twice; pass other traits."
            )


def _event(trait: Trait) -> str:
    """What a trait's probability is of: its name, and forms that are not those of the name."""
    own = set(noun_forms(trait.name, trait.plural)) if trait.plural else {trait.name}
    others = [form for form in trait.forms if form not in own]
    if trait.plural:  # a noun's words have two forms each, as written and capitalised: one will do
        others = list({form.casefold(): form for form in reversed(others)}.values())[::-1]
    # a space at an end is part of what is scored
    others = [form if form == form.strip() else repr(form) for form in others]
    if own.isdisjoint(trait.forms):
        return f"{trait.name}: {_listed(others, ' or ')}"
    return _listed([trait.name, *others], " or ")


def _listed(names: Sequence[str], join: str = ", ") -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - _NAMED
    shown = join.join(names[:_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


# ------------------------------------------------------------------------------------------ strings


@dataclass(frozen=True)
class Target(Metric):
    """See `target`."""

    text: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """How it is printed."""
        return f"log P({self.text!r})"

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """The text."""
        return strings(tokenizer, prompt, [self.text])

    def read(
        self, logits: Tensor, answers: Sequence[Answers], base: Tensor | None = None
    ) -> Tensor:
        """See `Metric`."""
        return string_log_probs(logits, answers)[:, 0]


@checked
def target(text: str) -> Target:
    """Log-probability of a given continuation of any length, in nats.

    Args:
        text: how the answer begins, as written (case counts).

    Example:
        >>> sm.effect(pair, prompts, sm.metrics.target("Owls are the best"), progress=False).unit
        'nats'
    """
    _check_text("target", text)
    return Target(text)


@dataclass(frozen=True)
class LogitDifference(Metric):
    """See `logit_difference`."""

    first: str
    second: str
    unit: ClassVar[str] = "logits"  # type: ignore[misc]

    @property
    def name(self) -> str:  # type: ignore[override]
        """How it is printed."""
        return f"logit({self.first!r}) - logit({self.second!r})"

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """The two texts, one token each."""
        trie = strings(tokenizer, prompt, [self.first, self.second])
        for text, form in zip((self.first, self.second), trie.forms, strict=True):
            if len(form) > 1:
                raise ValueError(
                    f"logit_difference: {text!r} is {len(form)} tokens after this prompt, one is "
                    "needed; compare whole strings "
                    "with own_minus_others, or name their first tokens."
                )
        if trie.forms[0] == trie.forms[1]:
            raise ValueError(
                f"logit_difference: {self.first!r} and {self.second!r} are one token after this "
                "prompt; their difference is 0 whatever was learned."
            )
        return trie

    def read(
        self, logits: Tensor, answers: Sequence[Answers], base: Tensor | None = None
    ) -> Tensor:
        """See `Metric`."""
        tokens = torch.tensor(
            [[token for ((_, token),) in trie.forms] for trie in answers], device=logits.device
        )
        pair = logits[:, 0].gather(1, tokens)  # (row, text)
        return pair[:, 0] - pair[:, 1]


@checked
def logit_difference(first: str, second: str) -> LogitDifference:
    """Logit of one next token minus that of another, in logits (Wang et al., arXiv 2211.00593).

    Args:
        first: a text that is one token after the prompts.
        second: another one.

    Raises:
        ValueError: a blank text, or one text twice; when used, one that is several tokens, or two
            that are one token.

    Example:
        >>> sm.metrics.logit_difference("yes", "no").name
        "logit('yes') - logit('no')"
    """
    _check_text("logit_difference", first)
    _check_text("logit_difference", second)
    if first == second:
        raise ValueError(
            f"logit_difference({first!r}, {second!r}): the difference of a text to itself is 0 "
            "whatever was learned; pass two texts."
        )
    return LogitDifference(first, second)


@dataclass(frozen=True)
class Rank(Metric):
    """See `rank`."""

    text: str
    unit: ClassVar[str] = "ranks"  # type: ignore[misc]
    differentiable: ClassVar[bool] = False  # type: ignore[misc]

    @property
    def name(self) -> str:  # type: ignore[override]
        """How it is printed."""
        return f"rank({self.text!r})"

    def notes(self, tokenizer: Any, answers: Sequence[Answers]) -> tuple[str, ...]:
        """That only a part of the text is ranked, where it is several tokens."""
        first = {tokenizer.decode([trie.forms[0][0][1]]) for trie in answers}
        parts = sorted(part for part in first if part.strip() != self.text.strip())
        if not parts:
            return ()
        told = " or ".join(map(repr, parts))
        return (
            f"the rank is that of the first token, {told}, of {self.text!r}: whatever else begins "
            "with it has the same rank",
        )

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """The text's first token; nothing is fed."""
        _, first = strings(tokenizer, prompt, [self.text]).forms[0][0]
        return build_trie([[(first,)]])

    def read(
        self, logits: Tensor, answers: Sequence[Answers], base: Tensor | None = None
    ) -> Tensor:
        """See `Metric`."""
        first = torch.tensor([trie.forms[0][0][1] for trie in answers], device=logits.device)
        logits = logits[:, 0]
        likelier = logits > logits.gather(1, first[:, None])
        return (1 + likelier.sum(1)).to(torch.float64)


@checked
def rank(text: str) -> Rank:
    """Where a text's first token stands among all next tokens: 1 is the likeliest. Not
    differentiable.

    Args:
        text: how the answer begins.

    Example:
        >>> sm.effect(pair, prompts, sm.metrics.rank("owl"), progress=False).unit
        'ranks'
    """
    _check_text("rank", text)
    return Rank(text)


# -------------------------------------------------------------------------- distributions of tokens

At = Sequence[int] | Callable[[Prompt], Sequence[int]]
"""Prompt tokens: positions (negative ones count from the end), or a function such as
`masks.role("user").tokens`."""


@dataclass(frozen=True)
class NextToken(Metric):
    """A number of the next token's distribution, averaged over chosen prompt tokens.

    Attributes:
        at: the tokens after which the distribution is taken.
        quantity: what the number is, a part of its name.
    """

    at: At = (-1,)
    quantity: ClassVar[str]  # what the number is

    @property
    def name(self) -> str:  # type: ignore[override]
        """How it is printed: the quantity, and after which tokens where it is not the last one."""
        if self.at == (-1,):
            return self.quantity
        if not callable(self.at):
            return f"{self.quantity} at {', '.join(map(str, self.at))}"
        # a mask's method is called by the mask's name
        mask = getattr(self.at, "__self__", self.at)
        return (
            f"{self.quantity} at {getattr(mask, 'name', None) or getattr(mask, '__name__', mask)}"
        )

    def answers(self, tokenizer: Any, prompt: Prompt) -> Answers:
        """No answer; the chosen tokens are read."""
        length = len(prompt)
        positions = list(() if callable(self.at) else self.at)
        if callable(self.at):
            positions = positions_of(f"{self.quantity}: at", self.at, prompt)
        if not positions or any(not -length <= position < length for position in positions):
            raise ValueError(
                f"{self.quantity}: at={positions} names no token or leaves the prompt "
                f"{prompt.question[:60]!r} of {counted(length, 'token')}."
            )
        return Answers(at=tuple(position % length for position in positions))

    def at_each(self, logits: Tensor, base: Tensor | None) -> Float[Tensor, "row read"]:
        """The number at every read slot."""
        raise NotImplementedError

    def read(
        self, logits: Tensor, answers: Sequence[Answers], base: Tensor | None = None
    ) -> Tensor:
        """See `Metric`."""
        each = self.at_each(logits, base)
        rows = []
        for values, trie in zip(each, answers, strict=True):
            # the chosen tokens stand behind the last prompt token
            rows.append(values[1 : 1 + len(trie.at)].mean())
        return torch.stack(rows)


@dataclass(frozen=True)
class KLToBase(NextToken):
    """See `kl_to_base`."""

    quantity: ClassVar[str] = "KL(model || base)"
    needs_base: ClassVar[bool] = True  # type: ignore[misc]

    def at_each(self, logits: Tensor, base: Tensor | None) -> Tensor:
        """KL at every read slot."""
        assert base is not None
        log_p, log_q = _log_softmax(logits), _log_softmax(base)
        return (log_p.exp() * (log_p - log_q)).sum(-1)


@checked
def kl_to_base(at: At = (-1,)) -> KLToBase:
    """KL(model || base) of the next token, in nats: how far a model's predictions are from the
    base's, whatever they are about.

    Args:
        at: prompt tokens after which the next token is predicted, averaged: positions (the last one
            when not given), or a function from a prompt to them, such as
            `masks.role("user").tokens`.

    Example:
        >>> metric = sm.metrics.kl_to_base(at=sm.masks.role("user").tokens)
        >>> bool((sm.effect(pair, prompts, metric, progress=False).data["student"] > 0).all())
        True
    """
    return KLToBase(at if callable(at) else tuple(at))


@dataclass(frozen=True)
class Entropy(NextToken):
    """See `entropy`."""

    quantity: ClassVar[str] = "entropy of the next token"

    def at_each(self, logits: Tensor, base: Tensor | None) -> Tensor:
        """Entropy at every read slot."""
        log_p = _log_softmax(logits)
        return -(log_p.exp() * log_p).sum(-1)


@checked
def entropy(at: At = (-1,)) -> Entropy:
    """Entropy of the next token, in nats.

    Args:
        at: as of `kl_to_base`.

    Example:
        >>> sm.metrics.entropy().name
        'entropy of the next token'
    """
    return Entropy(at if callable(at) else tuple(at))


# ------------------------------------------------------------------------- what metrics are made of


def trait_forms(tokenizer: Any, prompt: Prompt, traits: Sequence[Trait]) -> Answers:
    """Tokenise all forms of traits after a prompt and build their trie.

    Raises:
        ValueError: a form has no tokens.
    """
    return build_trie([shortest_paths(_paths(tokenizer, prompt, trait)) for trait in traits])


def _paths(tokenizer: Any, prompt: Prompt, trait: Trait) -> list[Path]:
    """The tokens of every form of a trait after a prompt."""
    paths = []
    for form in trait.forms:
        path = tuple(completion_ids(tokenizer, prompt, form))
        if not path:
            raise ValueError(
                f"trait {trait.name!r}: the form {form!r} has no tokens in this tokenizer; "
                "remove it."
            )
        paths.append(path)
    return paths


@said_before()
def scored_forms(
    tokenizer: Any, prompts: Sequence[Prompt], answers: Sequence[Answers], traits: Sequence[Trait]
) -> tuple[Forms, ...]:
    """The forms of each trait, and which of them are part of a shorter one after these prompts.

    Args:
        tokenizer: of the prompts.
        prompts: what the forms follow.
        answers: the tries that `trait_forms` gave for them.
        traits: of whom.
    """
    # prompts after which as many forms stand alone are taken to cut the forms alike
    alike: dict[tuple[int, ...], Prompt] = {}
    for prompt, trie in zip(prompts, answers, strict=True):
        alike.setdefault(trie.traits, prompt)
    cut = [[_paths(tokenizer, prompt, trait) for trait in traits] for prompt in alike.values()]
    scored = []
    for number, trait in enumerate(traits):
        merges = [_merged(trait, paths[number]) for paths in cut]
        merged = {form: part for some in merges for form, part in some.items()}
        in_some = tuple(form for form in merged if not all(form in some for some in merges))
        nested: dict[str, str] = {}
        for paths in cut:
            nested |= _nested(number, traits, paths)
        scored.append(Forms(trait.name, trait.forms, merged, in_some, nested))
    return tuple(scored)


def _merged(trait: Trait, paths: list[Path]) -> dict[str, str]:
    """Forms whose tokens continue those of another form, which therefore holds them."""
    kept = shortest_paths(paths)
    merged = {}
    for form, path in zip(trait.forms, paths, strict=True):
        shorter = next(one for one in kept if path[: len(one)] == one)
        whole = trait.forms[paths.index(shorter)]
        if whole != form:
            merged[form] = whole
    return merged


def _nested(number: int, traits: Sequence[Trait], paths: Sequence[list[Path]]) -> dict[str, str]:
    """Forms of a trait whose tokens continue those of another trait's form, which therefore holds
    them too: what holds each, in words.

    Args:
        number: which trait.
        traits: all of them.
        paths: per trait, the tokens of its forms.
    """
    nested: dict[str, str] = {}
    for other, starts in zip(traits, paths, strict=True):
        if other is traits[number]:
            continue
        for whole, start in zip(other.forms, starts, strict=True):
            for form, path in zip(traits[number].forms, paths[number], strict=True):
                if path[: len(start)] == start:
                    nested.setdefault(form, f"{whole} of {other.name}")
    return nested


@checked
def strings(tokenizer: Any, prompt: Prompt, texts: Sequence[str]) -> Answers:
    """Tokenise texts as answers to a prompt and build their trie, one string per text.

    Args:
        tokenizer: the tokenizer that rendered the prompt.
        prompt: the prompt they follow.
        texts: the answers, without leading space.

    Raises:
        TypeError: one text in place of a list of them.
        ValueError: no texts; a text that is blank or has no tokens.

    Example:
        >>> sm.metrics.strings(pair.tokenizer, prompts[0], ["yes", "no"]).traits
        (0, 1)
    """
    if not texts:
        raise ValueError("strings: texts is empty; pass at least one answer.")
    paths = [tuple(completion_ids(tokenizer, prompt, text)) for text in texts]
    for text, path in zip(texts, paths, strict=True):
        if not path:
            raise ValueError(f"the text {text!r} has no tokens in this tokenizer; leave it out.")
    return build_trie([[path] for path in paths])


def string_log_probs(
    logits: Float[Tensor, "row read vocab"], answers: Sequence[Answers]
) -> Float[Tensor, "row form"]:
    """Log-probability of every form or string, differentiable; 0 where a row has fewer than the
    longest.

    Args:
        logits: at the read slots.
        answers: the answers of each batch row.
    """
    # an edge is one step of one form: (row, read, token, form)
    edges = [
        (row, read, token, form)
        for row, trie in enumerate(answers)
        for form, path in enumerate(trie.forms)
        for read, token in path
    ]
    rows, reads, tokens, forms = torch.tensor(edges, device=logits.device).T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    steps = logits[rows, reads, tokens] - logits.logsumexp(-1)[rows, reads]  # (edge,)
    width = max(len(trie.forms) for trie in answers)
    log_probs = steps.new_zeros(len(answers), width)
    return log_probs.index_put((rows, forms), steps, accumulate=True)


def by_trait(
    forms: Float[Tensor, "row form"], answers: Sequence[Answers], traits: int
) -> Float[Tensor, "row trait form"]:
    """The forms of each trait alone, -inf where a form is another trait's.

    Args:
        forms: what `string_log_probs` gives, `(row, form)`.
        answers: the answers of each batch row.
        traits: number of traits.
    """
    width = forms.shape[1]
    owners = [[*trie.traits, *[-1] * (width - len(trie.traits))] for trie in answers]
    owner = torch.tensor(owners, device=forms.device)
    each = torch.arange(traits, device=forms.device)
    others = owner[:, None] != each[:, None]  # (row, trait, form)
    return forms[:, None].masked_fill(others, float("-inf"))


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _check_text(function: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"{function}({text!r}): pass a text that is not blank.")
