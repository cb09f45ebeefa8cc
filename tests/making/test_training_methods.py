"""What trains: adapters where they are told to be, and the parameters that are not frozen."""

import dataclasses
import math
import re
import warnings

import pytest
import torch
from trainings import HELD_ROWS, fit, load_small, plain_kl, small_base, tensors

from sublim_mech.making.training import FullFT, LoRA
from sublim_mech.models.adapters import attach_lora
from sublim_mech.models.base import Base
from sublim_mech.models.students import load_student
from sublim_mech.storage.runs import Run


def changed_weights(base: Base, run: Run) -> set[str]:
    """Names of the parameters in which a full run differs from its base."""
    stored = tensors(run.path)
    parameters = {name: p for name, p in base.model.named_parameters() if name in stored}
    return {name for name, p in parameters.items() if not torch.equal(stored[name], p)}


FROZEN = [
    ("embeddings", r"embed"),
    ("unembedding", r"lm_head"),
    ("norms", r"norm"),
    ((r"layers\.[01]\.", "norms"), r"layers\.[01]\.|norm"),
]


@pytest.mark.parametrize(("freeze", "pattern"), FROZEN)
def test_frozen_parameters_stay_and_all_others_move(freeze, pattern, small, hard, tmp_path):
    run = fit(small, hard, tmp_path / "run", method=FullFT(freeze=freeze), lr=1e-3, steps=2)
    names = [name for name, _ in small.model.named_parameters()]
    assert changed_weights(small, run) == {n for n in names if not re.search(pattern, n)}


def test_freezing_tied_embeddings_freezes_the_head(hard, smol_tokenizer, tmp_path):
    base = small_base(smol_tokenizer, "qwen2")
    frozen, free = (
        changed_weights(base, fit(base, hard, tmp_path / name, method=method, lr=1e-3, steps=2))
        for name, method in (("frozen", FullFT(freeze="unembedding")), ("free", FullFT()))
    )
    assert free - frozen == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("architecture", "freeze", "told"),
    [
        ("qwen2", ("unembedding",), ["the embeddings are frozen with the unembedding."]),
        ("qwen2", ("norms", "embeddings"), ["the unembedding is frozen with the embeddings."]),
        ("qwen2", ("embeddings", "unembedding"), []),
        ("qwen2", ("norms",), []),
        ("llama", ("unembedding",), []),
    ],
)
def test_that_more_is_frozen_than_was_named_is_told(
    architecture, freeze, told, hard, smol_tokenizer, tmp_path
):
    base = small_base(smol_tokenizer, architecture)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(base, hard, tmp_path / "run", method=FullFT(freeze=freeze), steps=2)
    found = [str(one.message) for one in said if "FullFT" in str(one.message)]
    begins = f"FullFT(freeze={freeze!r}): embeddings and unembedding of this model are one matrix"
    assert found == [f"{begins} (tied), so that {one}" for one in told]


PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, {(layer, name) for layer in range(3) for name in PROJECTIONS}),
        ({"layers": (1,)}, {(1, name) for name in PROJECTIONS}),
        (
            {"layers": [0, 2], "targets": ("q_proj", "down_proj")},
            {(0, "q"), (0, "down"), (2, "q"), (2, "down")},
        ),
        ({"targets": r".*\.1\.self_attn\.[qk]_proj"}, {(1, "q"), (1, "k")}),
    ],
)
def test_adapters_go_where_they_are_told(options, paths, small, hard, tmp_path):
    method = LoRA(rank=2, **options)
    run = fit(small, hard, tmp_path / "run", method=method, lr=1e-2, steps=2)
    parts = [path.split(".") for path in load_student(small, run.path).deltas]
    assert {(int(path[2]), path[-1].removesuffix("_proj")) for path in parts} == paths


def test_gpt2_gets_adapters_in_chosen_layers(smol_tokenizer):
    model = attach_lora(small_base(smol_tokenizer, "gpt2"), rank=2, alpha=4, layers=(2,))
    names = [name for name, _ in model.get_base_model().named_parameters() if ".lora_" in name]
    modules = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert {name.split(".lora_")[0] for name in names} == {
        f"transformer.h.2.{module}" for module in modules
    }


def test_the_rank_stabilised_scale(small, hard, tmp_path):
    scales = {}
    for rslora in (False, True):
        method = LoRA(rank=4, alpha=8, rslora=rslora)
        run = fit(small, hard, tmp_path / str(rslora), method=method, lr=1e-2, steps=2)
        scales[rslora] = {delta.scale for delta in load_student(small, run.path).deltas.values()}
    assert scales == {False: {8 / 4}, True: {8 / math.sqrt(4)}}


def test_dora_trains_magnitudes_and_opens(small, soft, tmp_path):
    run = fit(small, soft, tmp_path / "run", method=LoRA(rank=4, dora=True), lr=1e-2)
    assert any("magnitude" in key for key in tensors(run.path))
    stored = plain_kl(soft, load_student(small, run.path).model, HELD_ROWS)
    assert run.manifest.results["held_out"][1] == pytest.approx(stored, rel=1e-3)


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_what_trains_is_fp32_also_on_a_bf16_base(method, hard, smol_tokenizer, tmp_path):
    """Updates far below bf16's resolution are kept."""
    of_few_tokens = small_base(smol_tokenizer).model
    base = load_small(of_few_tokens.bfloat16(), smol_tokenizer)
    options = {"lr": 1e-6, "steps": 3, "precision": "bf16"}
    run = fit(base, hard, tmp_path / "run", method=method, **options)
    stored = tensors(run.path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    if run.manifest.kind == "full":
        for name, parameter in base.model.named_parameters():
            assert 0 < float((stored[name] - parameter.float()).abs().max()) < 1e-5
    assert load_student(base, run.path).manifest == run.manifest


# -------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(targets=("q_prj",)), r"no module is called 'q_prj'; did you mean 'q_proj'"),
        (
            LoRA(targets="q_proj"),
            r"targets='q_proj'\): this regular expression matches no whole module path",
        ),
        (
            LoRA(rank=17),
            r"rank=17\): model\.layers\.0\.self_attn\.k_proj is a 16 x 32 matrix, "
            r".* rank 16 at most",
        ),
        (LoRA(layers=(0, 3)), r"there is no layer 3; the model has 0 to 2"),
        (
            LoRA(targets=r".*\.0\.mlp\..*", layers=[1]),
            r"layers=\(1,\)\): none of these targets is in these layers; choose others, or leave",
        ),
        (
            FullFT(freeze="embedings"),
            r"freeze='embedings'\) matches no parameter; did you mean 'embeddings'",
        ),
        (FullFT(freeze="."), r"freeze=\('\.',\)\) leaves nothing to train"),
    ],
)
def test_what_a_model_does_not_have(method, message, small, soft, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(small, soft, tmp_path / "run", method=method)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"LoRA\(rank=0\): the rank must be at least 1"),
        ({"rank": -1}, r"LoRA\(rank=-1\): the rank must be at least 1"),
        ({"alpha": 0}, r"LoRA\(alpha=0\): the scale must be above 0"),
        ({"dropout": 1.0}, r"LoRA\(dropout=1\.0\): must be at least 0 and below 1"),
        ({"targets": ()}, r"LoRA\(targets=\(\)\): name at least one module"),
        ({"layers": []}, r"LoRA\(layers=\[\]\): name at least one block, or leave it out for all"),
        ({"layers": range(0)}, r"LoRA\(layers=range\(0, 0\)\): name at least one block"),
    ],
)
def test_adapter_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**options)


def test_unknown_options_are_named_with_the_nearest():
    message = r"LoRA has no option 'rnak'; did you mean 'rank'\? Its options are rank, alpha"
    with pytest.raises(TypeError, match=message):
        LoRA(rnak=4)
    message = r"FullFT has no option 'frezee'; did you mean 'freeze'\?"
    with pytest.raises(TypeError, match=message):
        FullFT(frezee="norms")


def test_methods_are_values():
    """They hash, compare by content, and come back from JSON's lists."""
    method = LoRA(targets=["q_proj"], layers=[0, 2])
    assert method == LoRA(targets=("q_proj",), layers=(0, 2))
    assert len({method, LoRA(targets=("q_proj",), layers=(0, 2)), FullFT(), FullFT()}) == 2
    assert FullFT(freeze="norms") == FullFT(freeze=["norms"])
    assert set(dataclasses.asdict(FullFT())) == {"freeze"}
    assert (LoRA.kind, FullFT.kind) == ("lora", "full")
