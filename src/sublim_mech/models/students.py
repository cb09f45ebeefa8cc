"""Students: adapters and full fine-tunes, read, and checked against their base.

1. A folder or a hub id is read as a PEFT adapter or as a transformers checkpoint; a live model is
   taken as it is, over its own parameters.
2. What its folder says must fit the base: the manifest's hash of the base and of the weight files,
   the tokenizer's ids.
3. It is held as differences from the base, module by module (`deltas`).
4. What computes beside the weights must be equal (the configuration), and the weights must come
   from the base's (lineage).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..arguments import checked
from ..hints import counted, outside
from ..prompts.vocabulary import vocabulary_hash
from ..storage.manifest import Manifest
from .adapters import CONFIG, read_adapter, read_config
from .base import Base
from .buffers import changed_buffers
from .chat_templates import other_template, trained_otherwise
from .checks import check_finite, check_plain, check_source
from .choosing import adapter_folder, as_names, choose_adapter
from .compat import adapter_configs, inside_peft
from .configuration import check_config, computed_apart, computes_otherwise, computing
from .copies import twin
from .deltas import Delta, LowRank, check_types, deltas_hash, find_deltas, placed
from .experts import check_stacks, find_experts, gather, inside
from .extraction import Extracted, read_extracted
from .gating import TrainedGates, gates_notes
from .keys import fitted, left_out_of
from .mixers import gather_mixers
from .names import REST, WHOLE, PartName
from .origins import holds, names_another_base, student_name
from .parts import Parts
from .peft_layers import adapter_names
from .placement import place_like, plain
from .plausible import module_squares, rounding_note, size_note
from .presence import check_files
from .quantised import packed_modules
from .reading import read_model
from .refusals import check_apart
from .sources import locate_student
from .watching import Slot, Watch, check_weights, parameter_slots
from .wrappers import asides, told, without_asides

EQUAL = "equals its base: no weight differs"
"""How it is told of a student that it is its base."""

FARTHEST = 0.5
"""Relative distance from the base above which a student is no fine-tune of it."""


@dataclass(frozen=True)
class Student:
    """A student of a base model.

    Attributes:
        name: how it is called in tables.
        kind: `lora` (low-rank deltas only), `full` (none), `mixed`, or `adapter`: one whose
            differences have no low rank of their own (DoRA, LoHa, IA3).
        deltas: by path of the base model's module; modules that do not differ are absent.
        model: the student as Hugging Face's or PEFT's own model; an adapter's shares the base's
            parameters.
        manifest: how it was made, where its folder says so.
        hash: content hash of its weights.
        base_hash: `Base.hash` of the base it was loaded with; empty where nobody loaded it.
        notes: what a reader of its scores has to know, in words: that it equals its base, that its
            `lora_alpha` is below 0, that its adapter names another base.
        watch: tells whether its weights are still those of the hash; None where nobody else holds
            them, because they were read from a folder.
        extracted: what `extract_lora` cut it from; None of a student that was trained.
        gates: where its weights act; everywhere when None. With gates its hash is another, and
            `model` is still the student without them.
        split_by: what its differences are split by: `band`, `head` or `student`; empty where each
            is one (`splitting`).
        parts: the differences that are split into several, by path.
        widths: directions of each band it is split into.
        sketch: largest side decomposed exactly, directions found and seed, where bands are by
            randomised SVD; empty elsewhere.
    """

    name: str
    kind: str
    deltas: Mapping[str, Delta]
    model: nn.Module
    manifest: Manifest | None
    hash: str
    base_hash: str = ""
    notes: tuple[str, ...] = ()
    watch: Watch | None = field(default=None, repr=False, compare=False)
    extracted: Extracted | None = field(default=None, repr=False, compare=False)
    gates: TrainedGates | None = field(default=None, repr=False, compare=False)
    split_by: str = ""
    parts: Mapping[str, Parts] = field(default_factory=dict, repr=False, compare=False)
    widths: tuple[int, ...] = ()
    sketch: tuple[int, ...] = ()

    @property
    def cells(self) -> list[tuple[str, PartName]]:
        """What has a gate of its own: the path of each changed module, once per part of its
        difference.
        """
        whole = WHOLE if not self.split_by else PartName(**{self.split_by: REST})
        return [
            (path, name)
            for path in self.deltas
            for name in (self.parts[path].names if path in self.parts else (whole,))
        ]

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of all its differences from the base together."""
        return _norm_of(self.deltas)

    @property
    def width(self) -> int:
        """Number of `cells`."""
        return len(self.cells) if self.parts else len(self.deltas)

    def check_unchanged(self, when: Literal["now", "begin", "settle"] = "now") -> None:
        """Raise ValueError where the weights were changed in place since they were loaded
        (`watching.check_weights`).
        """
        check_weights(self.watch, f"student={self.name!r}", when=when)

    def __repr__(self) -> str:
        return self.in_a_line(self.notes)

    def in_a_line(self, notes: Sequence[str] = ()) -> str:
        """What it is, in a line, with these notes; a pair has notes of all its students itself."""
        parts = f"split by {self.split_by} into {len(self.cells)} parts"
        told = "".join(f"; {note}" for note in ([parts, *notes] if self.split_by else notes))
        return (
            f"Student({self.name!r}, {self.kind}, {counted(len(self.deltas), 'changed module')}, "
            f"{self.hash[:12]}{told})"
        )


@checked
def load_student(
    base: Base,
    source: Any,
    *,
    adapter: str | Sequence[str] | None = None,
    name: str | None = None,
    gates: TrainedGates | None = None,
    allow_unrelated: bool = False,
) -> Student:
    """Load a student of `base`.

    What scores of it have to be read with (`Student.notes`) is told as a `UserWarning`.

    Args:
        base: the base model.
        source: a PEFT adapter directory, a full checkpoint directory, a hub id of either, a live
            `PeftModel` or `PreTrainedModel`, or a `Student`.
        adapter: which adapter of a live model that has several, or of a folder that PEFT wrote from
            such a model (every adapter but `default` in a subfolder of its name); several names
            of a live model are the sum of their updates. Each adapter is a student of its own: none
            is chosen in silence.
        name: how it is called in tables; the trait in its manifest, or the name of its directory,
            hub id or live adapter, when not given.
        gates: the gates that it was trained under (`training.gates_of(run)`): its weights then act
            at these cells only, in every instrument that runs it; what needs plain weights or
            several students as one refuses it. Without them its weights act everywhere, as in any
            other tool that opens the folder; a note says so.
        allow_unrelated: accept a student whose weights are as far from the base as an unrelated
            model's.

    Raises:
        FileNotFoundError: nothing is there, or the folder lacks its configuration.
        TypeError: neither a text, a path nor a model.
        ValueError: another base (shape, vocabulary, configuration, the manifest's base hash,
            lineage, a `Student` loaded with another), a damaged or edited file, an adapter that
            lacks tensors or does not hold what was trained (PiSSA by random numbers, CorDA,
            LoRA-GA), a pickle, NaN or quantised weights, an adapter that cannot be told apart
            module by module; weights of base or student that were changed in place; a live model
            with several adapters of which none was named, a name it does not have; more than a
            plain LoRA over a module of the base that is quantised.

    Example:
        >>> sm.models.load_student(pair.base, student, name="owl")
        Student('owl', lora, 21 changed modules, ...)
    """
    student = read_student(
        base, source, adapter=adapter, name=name, gates=gates, allow_unrelated=allow_unrelated
    )
    if not isinstance(source, Student):
        tell_notes(student)
    return student


def tell_notes(student: Student, argument: str = "student", *, before: Sequence[str] = ()) -> None:
    """Warn of what scores of a student have to be read with.

    Args:
        student: the student.
        argument: what it was given as.
        before: what was told before.
    """
    for note in student.notes:
        if note not in before:
            warnings.warn(f"{argument}={student.name!r}: {note}.", stacklevel=outside())


def read_student(
    base: Base,
    source: Any,
    *,
    adapter: str | Sequence[str] | None = None,
    name: str | None = None,
    gates: TrainedGates | None = None,
    allow_unrelated: bool = False,
) -> Student:
    """`load_student`, which tells nothing: that is for whoever knows what the student is."""
    base.check_unchanged()
    wanted = as_names(adapter)
    if isinstance(source, Student):
        if wanted:
            raise ValueError(
                f"adapter={adapter!r}: student={source.name!r} is loaded already; pass the model "
                "or the folder it is of."
            )
        _check_as_loaded(base, source)
        if gates is not None:
            raise ValueError(
                f"gates: student={source.name!r} is loaded already; pass the folder of its run."
            )
        return source if name is None else replace(source, name=name)
    kinds = "an adapter or checkpoint folder, a hub id of either, or a live model"
    check_source(source, argument="student", kinds=kinds)

    # a live model is what it is; a folder says of itself what base it is a student of
    manifest, path = None, None
    if isinstance(source, nn.Module):
        model = twin(source)
        choose_adapter(model, wanted)
        name = name or "+".join(wanted) or student_name(model, base)
        # over a quantised base PEFT's model is quantised too: `find_deltas` compares what is packed
        if not (packed_modules(base.model) and adapter_names(model)):
            check_plain(source, argument="student", name=name)
        check_types(base, model)
    else:
        located = locate_student(str(source))
        path = adapter_folder(located, wanted)
        manifest = _read_manifest(base, path, str(source))
        _check_tokenizer(base, path)
        named = manifest.trait if manifest is not None else ""
        name = name or named or student_name(source if path == located else path, base)
        model = _read(base, path)
    model = place_like(model, base.model).eval().requires_grad_(False)
    own_config: Any = model.config
    model = fitted(base, model, name)

    # the weights must be sound, comparable with the base's, and come from them
    check_finite(model, argument="student", name=name)
    changed, left_out = without_asides(base.model, find_deltas(base, model, name))
    changed = gather_mixers(base.model, model, gather(base.model, model, changed))
    check_stacks(base.model, changed)
    _check_buffers(base, model, name)
    deltas = placed(base.model, changed)
    check_apart(name, deltas)
    check_config(base.model.config, own_config, student=name, name=base.name)
    # a manifest that names this base has said where the weights come from
    if not allow_unrelated and manifest is None:
        _check_lineage(base, _norm_of(deltas), name)

    extracted = None
    if path is not None and manifest is None:
        extracted = read_extracted(path, adapter_configs(model).values())
    notes = _notes(base, model, deltas, manifest, path, extracted)
    notes += gates_notes(name, manifest, gates)
    if path is not None:
        left_out += left_out_of(base.model, path)
    notes += tuple(filter(None, [told(left_out)]))
    return Student(
        name=name,
        kind=_kind(model, deltas),
        deltas=deltas,
        model=model,
        manifest=manifest,
        hash=deltas_hash(deltas) if gates is None else gates.hash_with(deltas_hash(deltas)),
        base_hash=base.hash,
        notes=notes,
        watch=Watch(_slots(deltas)) if isinstance(source, nn.Module) else None,
        extracted=extracted,
        gates=gates,
    )


def _notes(
    base: Base,
    model: nn.Module,
    deltas: Mapping[str, Delta],
    manifest: Manifest | None,
    path: Path | None,
    extracted: Extracted | None,
) -> tuple[str, ...]:
    """What is true of a student, read from `path` where it was no live model, and easily missed."""
    notes = []
    if not any(delta.norm() for delta in deltas.values()):
        scales = [getattr(one, "lora_alpha", None) for one in adapter_configs(model).values()]
        cause = " (its lora_alpha is 0)" if scales and not any(scales) else ""
        notes.append(f"{EQUAL}{cause}")
    invoked = invocation_of(deltas)
    if invoked:
        notes.append(
            f"an aLoRA: it acts from the last tokens {list(invoked)} of a prompt on, and nowhere "
            "in a prompt without them"
        )
    for config in adapter_configs(model).values():
        patterns = getattr(config, "alpha_pattern", None) or {}
        given = getattr(config, "lora_alpha", None), *patterns.values()
        alphas = [alpha for alpha in given if isinstance(alpha, int | float)]
        if alphas and min(alphas) < 0:
            notes.append(f"lora_alpha is {min(alphas)}: the opposite of what was trained")
    # a manifest names its base by the hash of its weights
    other_base = names_another_base(base, model) if manifest is None else None
    template = None if path is None else other_template(base, path)
    if manifest is not None:
        template = template or trained_otherwise(base, manifest)
    cut = None if path is None else _other_cut(base, path)
    # a manifest says how it was trained; without one only its size shows a slip
    size = size_note(base, deltas) if manifest is None and extracted is None else None
    told = (other_base, template, cut, size, rounding_note(base, deltas))
    return tuple(notes + [note for note in told if note])


def invocation_of(deltas: Mapping[str, Delta]) -> tuple[int, ...]:
    """The token ids from which on an aLoRA acts; none of any other student."""
    found = (delta.invocation for delta in deltas.values() if isinstance(delta, LowRank))
    return next(filter(None, found), ())


def _slots(deltas: Mapping[str, Delta]) -> Iterator[Slot]:
    """Where the tensors of a student are that its runs compute with."""
    for path, delta in deltas.items():
        if isinstance(delta, LowRank):
            factors = {"a": delta.a, "b": delta.b}
            yield from (Slot(factors, key, f"{path}.lora_{key.upper()}") for key in factors)
        else:
            yield from parameter_slots(delta.module, path)


def _norm_of(deltas: Mapping[str, Delta]) -> float:
    return math.sqrt(sum(delta.norm() ** 2 for delta in deltas.values()))


def _kind(model: nn.Module, deltas: Mapping[str, Delta]) -> str:
    """`lora`, `full`, `mixed` or `adapter`."""
    low_rank = [isinstance(delta, LowRank) for delta in deltas.values()]
    if not deltas:  # a student that does not differ from its base: its container says what it is
        return "lora" if hasattr(model, "peft_config") else "full"
    if all(low_rank):
        return "lora"
    if any(low_rank):
        return "mixed"
    return "adapter" if hasattr(model, "peft_config") else "full"


# ------------------------------------------------------------------------------------------ reading


def _read_manifest(base: Base, path: Path, source: str) -> Manifest | None:
    """The folder's manifest, where it has one; it must name this base and these weights.

    Raises:
        ValueError: it names others.
    """
    manifest = Manifest.load(path)
    if manifest is None:
        return None
    check_base(manifest, base, source)
    _check_vocabulary(base, manifest, source)
    apart = computed_apart(manifest.computing, computing(base.model), training=False)
    if apart:
        key, (given, expected) = next(iter(apart.items()))
        raise ValueError(computes_otherwise(source, base.name, key, expected, given))
    changed = manifest.changed_files(path)
    if changed:
        raise ValueError(
            f"student={source!r}: {', '.join(changed)}: not the files its manifest.json names; "
            "copy the folder again."
        )
    if not manifest.configurations:
        _check_method(manifest, path, source)
    return manifest


def check_base(manifest: Manifest, base: Base, source: str) -> None:
    """Refuse a manifest that names another base.

    Raises:
        ValueError: it does.
    """
    if manifest.base["hash"] == base.hash:
        return
    # the hash rounds to bfloat16, and twice rounded is not once rounded
    half = any(p.dtype == torch.float16 for p in base.model.parameters())
    why = " (in float16: its weights are rounded otherwise than the hash is)" if half else ""
    fix = ", in float32 or bfloat16" if half else ""
    raise ValueError(
        f"student={source!r} was trained from base {manifest.base['name']!r} "
        f"(hash {manifest.base['hash'][:12]}), but base={base.name!r}{why} has hash "
        f"{base.hash[:12]}; load the base it was trained from{fix}."
    )


_METHOD = {
    "rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora",
    "targets": "target_modules",
}  # fmt: skip
"""Options of `LoRA` and what PEFT's configuration calls them."""


def _check_method(manifest: Manifest, path: Path, source: str) -> None:
    """A manifest that does not cover the adapter's configuration still says how it was made.

    Raises:
        ValueError: the configuration says otherwise.
    """
    file = path / "adapter_config.json"
    if not file.is_file():
        return
    config = read_config(file)
    pairs = [
        (key, manifest.method[ours], config[key])
        for ours, key in _METHOD.items()
        if ours in manifest.method and key in config
    ]
    # what it never sets would change the scale of single modules
    patterns = ("alpha_pattern", "rank_pattern")
    pairs += [(key, {}, config[key]) for key in patterns if config.get(key)]
    for key, expected, found in pairs:
        if key == "target_modules":
            # `all-linear` and layers are written as the modules that were found
            if isinstance(expected, str) or manifest.method.get("layers") is not None:
                continue
            expected, found = sorted(expected), sorted(found)
        if expected != found:
            raise ValueError(
                f"student={source!r}: adapter_config.json or manifest.json was edited: {key} is "
                f"{found!r} in one and {expected!r} in the other; copy the folder again."
            )


def _read(base: Base, path: Path) -> nn.Module:
    """The model in a folder, an adapter or a checkpoint."""
    check_files(path)
    if not (path / CONFIG).is_file():
        return _read_full(base, path)
    if any(path.glob("model*.safetensors")) and holds(path, base) is False:
        raise ValueError(
            f"student={str(path)!r} has a model and an adapter on it, and the model is not "
            f"base={base.name!r}: what the student is, is both. Load that model as base to see the "
            "adapter alone, or merge the two (peft: merge_and_unload) and pass what comes out."
        )
    return read_adapter(base, path)


def _read_full(base: Base, path: Path) -> nn.Module:
    """A checkpoint, every weight in the type of the base's: those of a base are not all alike."""
    types = {name: p.dtype for name, p in base.model.named_parameters() if p.is_floating_point()}
    widest = max(types.values(), key=lambda dtype: torch.finfo(dtype).bits)
    model = read_model(path, widest, argument="student")
    for name, p in model.named_parameters():
        if p.dtype != types.get(name, p.dtype):
            p.data = p.data.to(types[name])
    return model


# ------------------------------------------------------------------------------------------- checks


def _check_buffers(base: Base, model: nn.Module, name: str) -> None:
    """A student must have the base's stored buffers, but for those inside a block of experts, which
    is gated as one.
    """
    aside, blocks = asides(base.model), find_experts(base.model)
    for key, (old, new) in changed_buffers(plain(base.model), inside_peft(model)):
        path = key.rpartition(".")[0]
        # as hashes have it: what differs by the rounding of a file's type is one
        rounded = torch.equal(old.bfloat16(), new.to(old).bfloat16())
        if not rounded and path not in aside and inside(path, blocks) is None:
            raise ValueError(
                f"student={name!r} differs from base={base.name!r} in {key}, which is no weight of "
                "a module but a buffer, and cannot be gated by token; give both models the same, "
                "or load the base it was trained from."
            )


def _check_vocabulary(base: Base, manifest: Manifest, source: str) -> None:
    """The base's tokenizer must give the ids that a student was trained with.

    Raises:
        ValueError: its manifest names others.
    """
    trained = manifest.base.get("vocabulary")  # manifests of earlier versions have none
    if trained and trained != vocabulary_hash(base.tokenizer):
        raise ValueError(
            f"student={source!r} was trained with a tokenizer of other ids than that of "
            f"base={base.name!r}: its ids are other tokens here. Load the base with the tokenizer "
            "it was trained with (tokenizer=)."
        )


def _check_tokenizer(base: Base, path: Path) -> None:
    """A tokenizer beside the student's weights must give the base's ids.

    Tokens only one of them knows are let pass.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json"
    if not file.is_file():
        return
    ids, base_ids = Tokenizer.from_file(str(file)).get_vocab(), base.tokenizer.get_vocab()
    differing = [token for token, i in ids.items() if base_ids.get(token, i) != i]
    if differing:
        token = min(differing, key=ids.__getitem__)
        raise ValueError(
            f"student={str(path)!r} has a tokenizer with other ids than base={base.name!r}: "
            f"{len(differing)} tokens differ, {token!r} is {ids[token]}, not {base_ids[token]}; "
            "base and student must share the tokenizer."
        )


PROBE = "An Owl says: 12, 3.5\n\n  Größe 你好 “x” don't"
"""A text of what tokenizers treat differently: case, digits, white space, other letters."""


def _other_cut(base: Base, path: Path) -> str | None:
    """That a tokenizer beside the student's weights cuts text otherwise than the base's, although
    its tokens have the same ids (normaliser, splitting); None where it does not.
    """
    from tokenizers import Tokenizer

    file, own = path / "tokenizer.json", getattr(base.tokenizer, "backend_tokenizer", None)
    if own is None or not file.is_file():
        return None
    cuts = [
        one.encode(PROBE, add_special_tokens=False).ids
        for one in (Tokenizer.from_file(str(file)), own)
    ]
    if cuts[0] == cuts[1]:
        return None
    return (
        "its folder holds a tokenizer that cuts text into other tokens than the base's, with which "
        "prompts are rendered: load the base with the student's (tokenizer=)"
    )


def _check_as_loaded(base: Base, student: Student) -> None:
    """A student that is loaded already must be one of this base, and as it was."""
    if student.base_hash and student.base_hash != base.hash:
        raise ValueError(
            f"student={student.name!r} was loaded with a base of hash {student.base_hash[:12]}, "
            f"but base={base.name!r} has hash {base.hash[:12]}; load it with this one."
        )
    if student.manifest is not None:
        _check_vocabulary(base, student.manifest, student.name)
    student.check_unchanged()


def _check_lineage(base: Base, distance: float, name: str) -> None:
    """The student's weights must be near the base's.

    Relative to their norm, fine-tunes are a few per cent away, unrelated weights sqrt(2).
    """
    # the norm is needed only as far as it takes to say that the distance is a small part of it
    square, nearest = 0.0, (distance / FARTHEST) ** 2
    for _, one in module_squares(base):
        square += one
        if square > nearest:
            return
    if distance / math.sqrt(square) > FARTHEST:
        raise ValueError(
            f"student={name!r} and base={base.name!r} do not share a lineage: their weights differ "
            f"by {distance / math.sqrt(square):z.2f} of the base's norm (unrelated models: about "
            "1.4); load the base it was trained from, or pass allow_unrelated=True."
        )
