"""What is told of a student that no fine-tune makes: its size, or that only rounding differs."""

from __future__ import annotations

import copy
import inspect
import json
import re
import warnings

import pytest
import tiny
import torch
from loading import TOKENIZER, base, manifest, model, saved

from sublim_mech.models import plausible
from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student
from sublim_mech.storage.files import weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
THRESHOLD = 0.1  # the library's, which `conftest` lifts for all other tests


@pytest.fixture
def told(monkeypatch):
    """The threshold of the library, which the tests' own adapters are all above."""
    monkeypatch.setattr(plausible, "LARGEST_CHANGE", THRESHOLD)


def small(**options):
    """A LoRA that changes its weights by about a hundredth."""
    return tiny.lora(model(), std=0.01, lora_alpha=options.pop("lora_alpha", 4), **options)


def size_notes(student):
    return [note for note in student.notes if "of their norm" in note]


def test_an_adapter_of_ordinary_size_is_not_told(told):
    made = small()
    merged = copy.deepcopy(made).merge_and_unload()
    before, after = dict(model().named_parameters()), dict(merged.named_parameters())
    paths = load_student(base(), made).deltas
    change = sum(
        float((after[f"{p}.weight"] - before[f"{p}.weight"]).square().sum()) for p in paths
    )
    weights = sum(float(before[f"{p}.weight"].square().sum()) for p in paths)
    assert (change / weights) ** 0.5 == pytest.approx(0.01, rel=0.3)
    assert not size_notes(load_student(base(), made))


@pytest.mark.parametrize("change", [{"lora_alpha": 400}, {"r": 1, "lora_alpha": 400}])
def test_a_scale_typed_with_two_zeros_too_many_is_told(change, told, tmp_path):
    path = saved(small(), tmp_path / "run")
    file = path / "adapter_config.json"
    config = json.loads(file.read_text()) | {"lora_alpha": change["lora_alpha"]}
    file.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"its adapter changes the weights it is on by \d+% of"):
        loaded = load_student(base(), path, allow_unrelated=True)
    assert len(size_notes(loaded)) == 1
    # a manifest has said how it was trained
    manifest(base(), weights=weight_sums(path)).save(path)
    assert not size_notes(load_student(base(), path))


def test_the_threshold_is_the_documented_one():
    """The example students' adapters have 0.0037 and 0.0035 of their weights' norm."""
    source = inspect.getsource(plausible)
    assert f"LARGEST_CHANGE = {THRESHOLD}" in source
    assert 0.0037 * 20 < THRESHOLD < 0.0037 * 100


# ----------------------------------------------------------------------------------------- rounding


def tuned(step):
    """A full fine-tune whose weights moved by a part of their size."""
    made = copy.deepcopy(model())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for p in made.parameters():
            p += step * p.abs().mean() * torch.randn_like(p)
    return made


def rounding_notes(student):
    return [note for note in student.notes if "what differs is rounding" in note]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_student_that_differs_by_its_stored_type_is_told(kind, tmp_path):
    path = saved(tuned(1e-7).to(kind), tmp_path / "run")
    with pytest.warns(UserWarning, match="what differs is rounding"):
        loaded = load_student(base(), path)
    (note,) = rounding_notes(loaded)
    name = str(kind).removeprefix("torch.")
    assert re.search(rf"it was stored in {name}, and (9\d|100)\.\d% of", note)
    live = load_student(base(), tuned(1e-7).to(kind).float())
    assert len(rounding_notes(live)) == 1


def test_the_share_is_that_of_the_squared_distance(tmp_path):
    made = tuned(1e-7).bfloat16().float()
    (note,) = rounding_notes(load_student(base(), made))
    far = near = 0.0
    for (_, old), (_, new) in zip(model().named_parameters(), made.named_parameters(), strict=True):
        far += float((new - old).double().square().sum())
        near += float((new - old.bfloat16().float()).double().square().sum())
    assert f"{1 - near / far:.1%} of its squared distance" in note


def test_a_real_change_is_no_rounding(tmp_path):
    for made in (tuned(0.02).bfloat16().float(), tuned(1e-7)):
        assert not rounding_notes(load_student(base(), made))
    # both rounded alike: nothing is left but what was trained
    low = load_base(copy.deepcopy(model()).bfloat16(), tokenizer=TOKENIZER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = load_student(low, saved(tuned(1e-9).bfloat16(), tmp_path / "run"))
    assert not rounding_notes(same)


def test_a_checkpoint_is_read_in_the_types_of_its_base(tmp_path):
    """A base need not be of one type: what it holds in fp32 is compared in fp32."""
    mixed = copy.deepcopy(model()).bfloat16()
    for path, module in mixed.named_modules():
        if path.endswith("norm"):
            module.float()
    made = copy.deepcopy(mixed)
    with torch.no_grad():
        made.model.norm.weight += 1e-4  # less than bfloat16 tells at 1
    path = saved(made, tmp_path / "run")
    loaded = load_student(load_base(mixed, tokenizer=TOKENIZER), path)
    assert set(loaded.deltas) == {"model.norm"}
    assert loaded.deltas["model.norm"].norm() == pytest.approx(1e-4 * 32**0.5, rel=0.01)
    live = load_student(load_base(mixed, tokenizer=TOKENIZER), made)
    assert live.hash == loaded.hash
    other = copy.deepcopy(made)
    other.model.norm.bfloat16()
    with pytest.raises(ValueError, match=r"live model in torch\.bfloat16, .*model\.norm\.weight"):
        load_student(load_base(mixed, tokenizer=TOKENIZER), other)
