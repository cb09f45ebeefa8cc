"""The manifest of a run folder: how a student was made, and what it shares with prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..prompts import Context, Trained
from .files import (
    SEAL,
    configuration_sums,
    edited,
    json_hash,
    plain,
    read_json,
    replacing,
    sealed,
    weight_sums,
)

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
INPUT_FIELDS = (
    "kind", "trait", "teacher", "context", "method", "objective", "data", "optimiser", "seeds",
)  # fmt: skip
"""What determines the result, beside the base model."""
LATER = ("content", "configurations", "prompts")
"""Fields that older manifests lack."""

GIVEN = "given rows"
"""Who wrote hard labels, in place of a teacher's words."""


@dataclass(frozen=True)
class Manifest:
    """How a student was made.

    Attributes:
        format: version of this layout.
        kind: `lora` or `full`.
        trait: what its teacher favoured; empty for a teacher without trait.
        teacher: how the labels were made, in words (say "contrastive teacher" wherever such a
            student is shown).
        base: `name` and `hash` (`weights_hash`) of the base model, how it computes with its weights
            (`computing`), and its tokenizer's ids (`vocabulary`, `vocabulary_hash`); older
            manifests lack the last two.
        context: the training context. The file has its date always, the content hash only another
            one than the usual.
        method: options of the training method.
        objective: the loss.
        data: `hash`, number of `rows` and of `held_out` rows, and the `support` token ids of soft
            labels.
        optimiser: optimiser, schedule, batch, steps, precision.
        seeds: every seed given; `live` lists those that had an effect.
        results: `held_out` loss before and after, in nats per token, what it is (`measure`),
            `steps` taken, and `processes`: how many trained from which step on. Of what it was
            trained on: `rows_hash`, `row_digests` by which each row is known again, and how many
            answers were `cut`.
        trained_on: summary of the training prompts for `mark_sharing`.
        versions: of the software that trained it.
        weights: file name to SHA-256.
        content: hash of all that determines the result (`inputs`); empty in manifests older than
            this field.
        configurations: file name to SHA-256 of the `adapter_config.json` or `config.json`; empty in
            manifests older than this field.
        prompts: hash of the different prompts that were trained on (`prompts_hash`); empty in
            manifests older than this field.
    """

    kind: str
    trait: str
    teacher: str
    base: dict[str, Any]
    context: Context
    method: dict[str, Any]
    objective: str
    data: dict[str, Any]
    optimiser: dict[str, Any]
    seeds: dict[str, Any]
    results: dict[str, Any]
    trained_on: Trained
    versions: dict[str, str]
    weights: dict[str, str]
    content: str = ""
    format: int = MANIFEST_FORMAT
    configurations: dict[str, str] = field(default_factory=dict)
    prompts: str = ""

    @property
    def computing(self) -> dict[str, Any]:
        """How the base computed with its weights: their `dtype`, and the fields of its `config`
        that decide; empty in manifests that are older than this. It is compared by itself: other
        versions of transformers know other fields.
        """
        return dict(self.base.get("computing", {}))

    def inputs(self) -> dict[str, Any]:
        """All that determines the result, as JSON.

        Two runs with equal inputs have equal weights, on one machine and software.
        """
        inputs = {name: getattr(self, name) for name in INPUT_FIELDS}
        inputs["context"] = self.context.to_json()
        inputs["base"] = self.base["hash"]
        # tuples become lists, as in a manifest that was read
        return json.loads(json.dumps(inputs, default=plain))

    def fingerprint(self) -> str:
        """Content hash of the inputs."""
        return json_hash(self.inputs())

    def changed_files(self, directory: Path) -> list[str]:
        """Names of the weight and configuration files in a folder that are not those named here,
        each with `(not there)` or `(not named)` where it is not another file but none.

        Manifests that are older than `configurations` say nothing of those files.
        """
        expected, found = dict(self.weights), weight_sums(directory)
        if self.configurations:
            expected |= self.configurations
            found |= configuration_sums(directory)
        apart = {name for name in {*expected, *found} if expected.get(name) != found.get(name)}
        why = dict.fromkeys(expected.keys() - found.keys(), " (not there)")
        why |= dict.fromkeys(found.keys() - expected.keys(), " (not named)")
        return [name + why.get(name, "") for name in sorted(apart)]

    def save(self, directory: Path) -> None:
        """Write `manifest.json`, sealed, under a temporary name, then rename."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        data["context"] = _dated(self.context)
        data["trained_on"] = self.trained_on.to_json()
        with replacing(directory / MANIFEST_FILE) as work:
            work.write_text(json.dumps(sealed(data), indent=1, sort_keys=True))

    @classmethod
    def load(cls, directory: Path) -> Manifest | None:
        """Read a folder's manifest; None where it has none.

        Raises:
            ValueError: not JSON, unknown or missing keys, another format, edited.
        """
        path = directory / MANIFEST_FILE
        if not path.is_file():
            return None
        fix = "copy it again or delete it to load the weights alone"
        data = read_json(path, MANIFEST_FORMAT, called=str(path), fix=fix)
        seal = data.pop(SEAL, "")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(data) - known)
        missing = sorted(known - set(data) - set(LATER))
        if unknown or missing:
            raise ValueError(
                f"{path}: unknown keys {unknown}, missing keys {missing}; known keys are "
                f"{sorted(known)}."
            )
        _check_unedited(path, data, seal)
        try:
            data["context"] = Context.from_json(data["context"])
            data["trained_on"] = Trained.from_json(data["trained_on"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: its context or trained_on cannot be read ({error!r}); copy it again."
            ) from error
        return cls(**data)


def _dated(context: Context) -> dict[str, Any]:
    """A context as JSON, with its date even where that is the usual one; raw text has none."""
    return context.to_json() | ({} if context.is_raw else {"date": context.date})


def _check_unedited(path: Path, data: dict[str, Any], seal: str) -> None:
    """Raise ValueError where a manifest is not as it was written.

    The seal says so of all keys. Manifests older than the seal have the content hash of what they
    were trained from, and those older than that have nothing.
    """
    if seal or data.get("configurations"):
        other = seal != json_hash(data)
    else:
        inputs = {name: data[name] for name in INPUT_FIELDS} | {"base": _hash_of(data["base"])}
        other = bool(data.get("content")) and data["content"] != json_hash(inputs)
    if other:
        fix = "copy the folder again, or delete the manifest to load the weights alone"
        raise edited(str(path), fix)


def prompts_hash(prompts: Iterable[Sequence[int]]) -> str:
    """Content hash of a set of prompts, whatever their order and number of copies.

    Args:
        prompts: token ids of each.
    """
    return json_hash(sorted({tuple(ids) for ids in prompts}))


def _hash_of(base: Any) -> Any:
    return base.get("hash") if isinstance(base, dict) else None
