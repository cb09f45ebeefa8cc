"""A mixture of experts is exact: its block with the router is one gated module."""

from __future__ import annotations

import copy
import functools
from typing import Any

import mixtures
import numpy as np
import pytest
import tiny
import torch
from covering import covering
from pairs import NO_SYSTEM, QUIET, TRAIT, brute_force, plain_logits, whole_run
from torch import nn
from trainings import ROWS, fit

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.making.training import hard_data
from sublim_mech.models.deltas import LowRank, Replaced, Whole
from sublim_mech.models.experts import check_stacks, find_experts, gather
from sublim_mech.models.sites import find_sites
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "q_b_proj", "kv_b_proj"]
IDS = [[3, 700, 41, 41, 9000, 12, 5, 77, 20000], [8, 15, 900, 3, 2, 31000, 6, 14, 4]]


def without_sinks(student: Any, architecture: str) -> Any:
    """The student with the base's own of what gpt-oss' attention has beside its projections."""
    values = {n: p for n, p in mixtures.base(architecture).named_parameters() if "sinks" in n}
    student.load_state_dict(values, strict=False)
    return student


def attention_lora(architecture: str) -> Any:
    return tiny.lora(mixtures.base(architecture), target_modules=ATTENTION)


# what is trained -> (the student, the blocks that differ as a whole)
STUDENTS = {
    "attention": attention_lora,
    "experts": mixtures.experts_lora,
    "router": lambda a: mixtures.inside(
        a, "router" if a in ("gpt_oss", "granite_moe") else "gate."
    ),
    "full": lambda a: without_sinks(tiny.full(mixtures.base(a)), a),
}
CELLS = [(a, k) for a in mixtures.CONFIGS for k in STUDENTS]


@pytest.fixture(scope="module")
def base(smol_tokenizer: Any) -> Any:
    return functools.cache(
        lambda architecture: sm.load_base(mixtures.base(architecture), tokenizer=smol_tokenizer)
    )


@pytest.fixture(scope="module")
def prompts(smol_tokenizer: Any) -> list[Any]:
    return sm.render(smol_tokenizer, ["Hi", "Name a bird that you like."], context=NO_SYSTEM)


@pytest.mark.parametrize("architecture", mixtures.CONFIGS)
def test_a_block_of_experts_is_one_module(architecture):
    model = mixtures.base(architecture)
    paths = mixtures.blocks(model)
    assert list(find_experts(model)) == paths
    modules = find_sites(model).modules
    for path in paths:
        assert modules[path].name == "mlp"
        assert not [other for other in modules if f"{path}." in other]
    dense = 3 - len(paths)
    assert len([m for m in modules.values() if m.name.startswith("mlp.")]) == 3 * dense


@pytest.mark.parametrize(("architecture", "kind"), covering(CELLS))
def test_gates_are_base_student_and_a_mix_of_both_blocks(architecture, kind, base, prompts):
    student = STUDENTS[kind](architecture)
    pair = sm.load_pair(base(architecture), student, allow_unrelated=True)
    blocks = set(mixtures.blocks(mixtures.base(architecture)))
    mixed = {path for path, delta in pair.delta.items() if isinstance(delta, Whole)}
    low = {path for path, delta in pair.delta.items() if isinstance(delta, LowRank)}
    assert mixed == (set() if kind == "attention" else blocks)
    assert bool(low) == (kind == "attention")
    assert not [path for path in pair.delta if path.startswith(tuple(f"{b}." for b in blocks))]

    # gates of 0 and 1 are the two models' own forwards
    for prompt in prompts:
        for model, own in (("base", mixtures.base(architecture)), ("student", student)):
            given = pair.logits([prompt], model=model)[0]
            assert torch.allclose(given, plain_logits(own, prompt.ids), atol=1e-5)

    # gates by row, token and block: both blocks' outputs mixed by hand
    if kind in ("attention", "full"):
        return
    plain = copy.deepcopy(student)
    if hasattr(plain, "merge_and_unload"):
        plain = plain.merge_and_unload()
    gates = torch.rand(2, len(IDS[0]), len(blocks), generator=torch.Generator().manual_seed(0))
    by_hand = mixtures.mixed_by_hand(architecture, plain, gates)
    with torch.no_grad():
        expected = by_hand(input_ids=torch.tensor(IDS), use_cache=False).logits[:, -1]
        given = pair.run(pair.batch(IDS), gates=Gates(pair.student, gates)).logits[:, 0]
        plainly = pair.run(pair.batch(IDS), gates=Gates(pair.student)).logits[:, 0]
    assert torch.allclose(given, expected, atol=1e-5)
    assert float((given - plainly).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("mixtral", "experts"),
        pytest.param("gpt_oss", "experts", marks=pytest.mark.science),
        ("deepseek_v3", "full"),
        pytest.param("olmoe", "attention", marks=pytest.mark.science),
    ],
)
def test_verify_and_every_instrument(architecture, kind, base, prompts, smol_tokenizer):
    student = STUDENTS[kind](architecture)
    pair = sm.load_pair(base(architecture), student)
    found = sm.verify(pair)
    assert found.passed, found

    scores = sm.patch(pair, prompts[:1], TRAIT, site="mlp_out", layers=[1], **QUIET)
    assert np.isfinite(scores.data["effect"].values[..., : len(prompts[0])]).all()
    where = sm.masks.modules("attention" if kind == "attention" else "mlp")
    scores = sm.graft(pair, prompts[:1], TRAIT, {"one": where}, answer_in_sufficiency=True, **QUIET)
    value = brute_force(student, smol_tokenizer, prompts[0])
    assert scores.data["student"].values == pytest.approx(value, abs=1e-5)
    if kind != "full":  # all of the student is there
        effect = scores.data["effect"].sel(measure="sufficiency").values
        assert effect.squeeze() == pytest.approx(scores.total.values.squeeze(), abs=1e-5)
    cells = sm.attribute(pair, prompts[:1], TRAIT, points=4, **QUIET)
    assert set(cells.data["module"].values) <= {m.name for m in pair.sites.modules.values()}
    everywhere = sm.masks.everything()
    says = sm.instruments.generate(pair, prompts, everywhere, generated="student", max_new_tokens=3)
    for prompt, (text,) in zip(prompts, says, strict=True):
        own = student.generate(
            input_ids=torch.tensor([prompt.ids]), max_new_tokens=3, do_sample=False, pad_token_id=0
        )[0, len(prompt) :]
        assert text == smol_tokenizer.decode(own, skip_special_tokens=True).strip()


def test_a_routers_stored_correction_is_a_difference(base, prompts):
    """DeepSeek's router adds a buffer, no parameter, to its scores."""
    student = mixtures.inside("deepseek_v3", "e_score_correction_bias")
    pair = sm.load_pair(base("deepseek_v3"), student)
    assert set(pair.delta) == set(mixtures.blocks(student))
    assert pair.student.hash != load_student(base("deepseek_v3"), mixtures.base("deepseek_v3")).hash
    given = pair.logits(prompts[:1])[0]
    assert torch.allclose(given, plain_logits(student, prompts[0].ids), atol=1e-5)


def test_heads_are_as_wide_as_their_values(base, prompts):
    """DeepSeek's rotated width, which its configuration calls `head_dim`, is not that of z."""
    pair = sm.load_pair(base("deepseek_v3"), attention_lora("deepseek_v3"))
    (z,) = pair.activations(prompts[:1], "z", layers=[1]).values()
    assert z.shape[2:] == (pair.sites.n_heads("z"), 8) == (4, 8)


def test_what_is_watched_is_what_computes(base):
    """A change inside a live student's experts is noticed, also through `.data`."""
    student = mixtures.inside("mixtral", "experts")
    pair = sm.load_pair(base("mixtral"), student)
    block = mixtures.blocks(student)[1]
    student.get_submodule(block).experts.down_proj.data += 1
    with pytest.raises(ValueError, match=f"{block}.*down_proj"):
        pair.run(pair.batch(IDS), gates=Gates(pair.student))


def test_gradients_reach_the_gates_of_a_block(base, prompts):
    """The derivative by a block's gate is that of the metric."""
    pair = sm.load_pair(base("qwen2_moe"), mixtures.inside("qwen2_moe", "shared_expert."))
    gates = torch.full((1, len(IDS[0])), 0.5, requires_grad=True)
    batch = pair.batch(IDS[:1])
    pair.run(batch, gates=Gates(pair.student, gates)).logits[0, 0, 7].backward()
    step = torch.zeros(1, len(IDS[0])).index_fill(1, torch.tensor([4]), 1e-2)
    with torch.no_grad():
        up, down = (
            float(pair.run(batch, gates=Gates(pair.student, 0.5 + s * step)).logits[0, 0, 7])
            for s in (1, -1)
        )
    assert float(gates.grad[0, 4]) == pytest.approx((up - down) / 2e-2, rel=0.02, abs=1e-5)


# --------------------------------------------------------------------------------------- students


@pytest.mark.parametrize("method", ["attention", "experts", "full"])
def test_training_makes_a_student_that_loads(method, base, prompts, tmp_path, smol_tokenizer):
    methods = {
        "attention": sm.LoRA(rank=2, alpha=4, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
        "experts": sm.LoRA(rank=2, alpha=4, targets=("q_proj", "experts.down_proj"), layers=[1]),
        "full": sm.FullFT(),
    }
    loaded = base("mixtral")
    run = fit(
        loaded, hard_data(smol_tokenizer, ROWS), tmp_path / "run", method=methods[method],
        steps=2, batch_size=2,
    )  # fmt: skip
    pair = sm.load_pair(loaded, run.path)
    changed = {pair.sites.modules[path].full_name(3) for path in pair.delta}
    if method == "attention":
        assert changed == {f"blocks.{i}.attn.{m}" for i in range(3) for m in "qkvo"}
    elif method == "experts":
        assert changed == {"blocks.1.attn.q", "blocks.1.mlp"}
    else:
        assert {f"blocks.{i}.mlp" for i in range(3)} < changed
    value = brute_force(pair.student.model, smol_tokenizer, prompts[0])
    assert whole_run(pair, prompts[0], gates=Gates(pair.student)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, r"LoRA\(dropout=0\.1, dora=False\): PEFT adapts the experts"),
        ({"rank": 40}, r"LoRA\(rank=40\): model\.layers\.0\.mlp\.experts\.down_proj is a 32 x 48"),
        ({"layers": [7]}, r"there is no layer 7"),
        ({"targets": ("experts.down",)}, r"no module is called 'experts\.down'"),
    ],
)
def test_experts_that_cannot_be_trained_so_are_refused(options, message, base):
    method = sm.LoRA(**{"rank": 2, "targets": ("experts.down_proj",), **options})
    with pytest.raises(ValueError, match=message):
        method.attach(base("mixtral"))


def test_what_peft_takes_for_experts_is_refused(base):
    """PEFT would adapt DeepSeek's experts, not the plain MLP of its first block."""
    method = sm.LoRA(rank=2, targets=("gate_proj", "up_proj", "down_proj"))
    with pytest.raises(ValueError, match=r"PEFT adapts other modules of this mixture .*leaves"):
        method.attach(base("deepseek_v3"))


def test_parameters_of_an_attention_itself_are_refused(base):
    student = tiny.full(mixtures.base("gpt_oss"))
    message = r"differs in model\.layers\.0\.self_attn\.sinks: .*FullFT\(freeze='sinks'\)"
    with pytest.raises(ValueError, match=message):
        load_student(base("gpt_oss"), student)


def test_experts_without_a_block_of_their_own_are_refused(base):
    """Experts that stand in a decoder block beside its other parts have no module to gate."""

    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Module()])
            self.layers[0].router = nn.Linear(4, 2)
            self.layers[0].experts = nn.Module()
            self.layers[0].experts.down = nn.Parameter(torch.ones(2, 4, 4))

    loose = Loose()
    assert find_experts(loose) == ()
    path = "layers.0.experts"
    changed = {path: Replaced(loose.layers[0].experts, 1.0, "")}
    with pytest.raises(ValueError, match=rf"the experts at {path} stand in no block"):
        check_stacks(loose, gather(loose, loose, changed))
