"""A LoRA over a quantised base is exact: the base's modules run as they are, and only the low-rank
branch is gated. Whatever else differs on a packed module is refused.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings

import numpy as np
import packing
import pytest
import tiny
import torch
from comparing import snapshot
from loading import saved
from pairs import CAT, NO_SYSTEM, QUIET, brute_force

import sublim_mech as sm
from sublim_mech.models.quantised import packed_modules, precision, square_norm
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", params=list(packing.PACKED))
def packed(request):
    """A quantised base model."""
    make, package = packing.PACKED[request.param]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    model = make(packing.plain_model())
    model.packed_by = request.param
    return model


@pytest.fixture(scope="module")
def adapted(packed):
    """PEFT's model over it."""
    return tiny.lora(packed, std=0.05, target_modules=TARGETS)


@pytest.fixture(scope="module")
def pair(packed, adapted, smol_tokenizer):
    return sm.load_pair(packed, adapted, tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Hi", "Name a bird, please."], context=NO_SYSTEM)


def tolerance(model):
    if model.packed_by == "bitsandbytes 4 bit":  # reorders the caller's, with a coarser kernel
        return 1e-3
    return 1e-5 if precision(model) == torch.float32 else 5e-3


def test_scores_are_those_of_pefts_own_forward(packed, adapted, pair, prompts, smol_tokenizer):
    assert pair.student.kind == "lora"
    assert len(packed_modules(pair.model)) == 7 * 2 == len(packed_modules(packed))
    scores = sm.attribute(pair, prompts, CAT, points=8, **QUIET)
    allowed = tolerance(packed)
    for kind, module in (("base", packed), ("student", adapted)):
        expected = [brute_force(module, smol_tokenizer, prompt, CAT) for prompt in prompts]
        np.testing.assert_allclose(scores.data[kind].values[0], expected, atol=allowed)
    total = scores.total.values
    assert (np.abs(total) > 1e-2).all()
    summed = np.nansum(scores.token_effect(), 1)
    np.testing.assert_allclose(summed, total, atol=1e-4 if allowed < 1e-4 else 0.2)


def test_grafts_and_patches_and_verify(packed, pair, prompts):
    sets = {"all": lambda prompt: list(range(len(prompt)))}
    graft = sm.graft(pair, prompts, CAT, sets, **QUIET).data
    effect = graft["student"] - graft["base"]
    for measure in ("sufficiency", "necessity"):
        both = graft["effect"].sel(measure=measure).values[0, :, 0], effect.values[0]
        np.testing.assert_allclose(*both, atol=tolerance(packed))
    patched = sm.patch(pair, prompts[:1], CAT, site="resid_post", **QUIET).data["effect"].values
    assert np.isfinite(patched[0, 0, -1, : len(prompts[0])]).all()
    if tolerance(packed) < 5e-3:
        assert all(check.passed for check in sm.verify(pair).checks)


def test_what_was_given_stays_as_it_is(packed, adapted, prompts, smol_tokenizer):
    """Hooks, modes, storage; and the caller's model computes what it did."""
    ids = torch.tensor([prompts[0].ids])
    with torch.no_grad():
        before = packed(input_ids=ids).logits, adapted(input_ids=ids).logits
    kept = snapshot(packed) if packed.packed_by == "stand-in" else None
    pair = sm.load_pair(packed, adapted, tokenizer=smol_tokenizer)
    pair.logits(prompts)
    with torch.no_grad():
        after = packed(input_ids=ids).logits, adapted(input_ids=ids).logits
    assert all(torch.equal(*both) for both in zip(before, after, strict=True))
    assert kept is None or snapshot(packed) == kept
    again = sm.load_pair(packed, adapted, tokenizer=smol_tokenizer)
    assert (again.hash, again.student.hash) == (pair.hash, pair.student.hash)


def test_a_stored_adapter_is_the_live_one(packed, adapted, pair, tmp_path):
    stored = load_student(pair.base, saved(adapted, tmp_path / "run"))
    assert stored.hash == pair.student.hash


def test_the_hash_knows_what_is_packed(packed, pair, smol_tokenizer):
    other = copy.deepcopy(packed)
    module = next(iter(packed_modules(other).values()))
    held = [*module.parameters(), *module.buffers()]
    plain = [p for t in held for p in (t.qdata if hasattr(t, "qdata") else t,)]
    with torch.no_grad():
        plain[0].data.view(torch.uint8).flatten()[0] ^= 1
    assert sm.load_base(other, tokenizer=smol_tokenizer).hash != pair.hash


def test_weights_changed_in_place_are_noticed(packed, adapted, prompts, smol_tokenizer):
    if packed.packed_by == "bitsandbytes 4 bit":
        pytest.skip("on a CPU our copy holds its weights in an order of its own")
    other = copy.deepcopy(packed)
    pair = sm.load_pair(other, adapted, tokenizer=smol_tokenizer)
    pair.logits(prompts)
    module = next(iter(packed_modules(other).values()))
    weight = next(module.parameters())
    plain = weight.qdata if hasattr(weight, "qdata") else weight
    with torch.no_grad():
        plain.data.view(torch.uint8).flatten()[:].bitwise_xor_(1)
    with pytest.raises(ValueError, match="its weights were changed in place"):
        pair.logits(prompts)


def test_norms_of_packed_weights_are_estimated(packed):
    plain = packing.plain_model()
    for path, module in packed_modules(packed).items():
        exact = float(plain.get_submodule(path).weight.square().sum())
        assert square_norm(module, torch.float32) == pytest.approx(exact, rel=0.15)


def test_a_pair_over_packed_weights_has_no_merged_copy(pair):
    with pytest.raises(ValueError, match=r"is quantised \(model\.layers\.0.*so it has no plain"):
        pair.student_bridge()


# ---------------------------------------------------------------------------------------- the rest


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    """The stand-in, loaded."""
    return sm.load_base(packing.stand_in(packing.plain_model()), tokenizer=smol_tokenizer)


REFUSED = (
    r"base=.* is quantised, and model\.layers\.0\.\S+ differs by more than a plain LoRA \({}\)"
)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_more_than_a_low_rank_pair_is_refused(options, base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = tiny.lora(base.model, std=0.05, target_modules=["q_proj"], **options)
        except (RuntimeError, AttributeError, TypeError, ValueError):
            pytest.skip("PEFT does not make it")
    with pytest.raises(ValueError, match=REFUSED.format("Linear")):
        load_student(base, made)


def test_full_fine_tunes_are_refused(base, tmp_path):
    plain = packing.plain_model()
    with pytest.raises(ValueError, match=REFUSED.format("it is not quantised")):
        load_student(base, plain)
    with pytest.raises(ValueError, match=REFUSED.format("it is not quantised")):
        load_student(base, saved(plain, tmp_path / "run"))
    other = packing.stand_in(tiny.full(plain))
    over_other = tiny.lora(other, target_modules=["q_proj"])
    with pytest.raises(ValueError, match=REFUSED.format("other packed weights")):
        load_student(base, over_other)


def test_what_is_not_packed_may_differ_in_any_way(base, prompts):
    """A head that is saved beside the adapter is a plain module's change."""
    made = tiny.lora(base.model, std=0.05, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "modules_to_save" in name:
                p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    loaded = load_student(base, made)
    assert loaded.kind == "mixed"
    pair = sm.load_pair(base, loaded)
    ids = torch.tensor([prompts[0].ids])
    with torch.no_grad():
        expected = made(input_ids=ids, use_cache=False).logits[0]
    torch.testing.assert_close(pair.logits(prompts[:1])[0], expected, atol=1e-4, rtol=0)


def test_a_quantised_student_of_a_plain_base_is_refused(smol_tokenizer):
    plain = sm.load_base(packing.plain_model(), tokenizer=smol_tokenizer)
    made = tiny.lora(packing.stand_in(packing.plain_model()), target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"student=.* is quantised: \S+ is torch\.int8"):
        load_student(plain, made)


def test_a_lora_is_attached_to_packed_projections(base):
    from sublim_mech.models.adapters import attach_lora

    made = attach_lora(base, rank=2, alpha=4)
    assert sum(".lora_A." in name for name, _ in made.named_parameters()) == 7 * 2
    with pytest.raises(ValueError, match=r"is a 32 x 64 matrix, whose updates have rank 32 at"):
        attach_lora(base, rank=33, alpha=4, targets=("k_proj",))
