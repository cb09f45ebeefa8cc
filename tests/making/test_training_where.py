"""Training at chosen cells only: what is closed computes as the base does and learns nothing."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gated import loss_under_gates
from trainings import (
    fit,
    labelled,
    load_small,
    log_of,
    small_base,
    small_hard,
    small_model,
    tensors,
    weights,
)

from sublim_mech import masks
from sublim_mech.making.training import FullFT, LoRA, TrainingData, gates_of
from sublim_mech.making.training.aims import Aims
from sublim_mech.making.training.batches import collate
from sublim_mech.making.training.order import divide
from sublim_mech.making.training.trainee import Trainee
from sublim_mech.models.base import Base
from sublim_mech.models.students import load_student
from sublim_mech.storage.runs import Run

SYSTEM = masks.role("system")
EVERYWHERE: dict[str, Any] = {"where": masks.everything(), "answer_in_where": True}


# -------------------------------------------------------------------------------- what is computed


@pytest.fixture(scope="module")
def mixed(smol_tokenizer) -> TrainingData:
    return labelled(small_hard(smol_tokenizer), "listed")


METHODS = {
    "lora": LoRA(rank=2),
    "dora": LoRA(rank=2, dora=True),
    "ends": LoRA(rank=2, targets=("embed_tokens", "lm_head", "v_proj")),
    "full": FullFT(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "where",
    [SYSTEM, masks.role("user") & masks.layers([1]) | masks.modules("head"), masks.role("answer")],
    ids=lambda mask: mask.name,
)
def test_the_trained_student_is_the_graft_of_its_weights(method, where, small, mixed, tmp_path):
    options = {"method": METHODS[method], "lr": 3e-2, "where": where}
    run = fit(small, mixed, tmp_path / "run", **options)
    measured = run.manifest.results["held_out"][1]
    with pytest.warns(UserWarning, match="as in training, its weights are on only at"):
        gated = loss_under_gates(small, run, mixed)
    assert gated == pytest.approx(measured, abs=2e-6)
    with pytest.warns(UserWarning, match="here they are on everywhere"):
        assert abs(loss_under_gates(small, run, mixed, gated=False) - measured) > 1e-5


OPEN = {
    "llama": ({}, LoRA(rank=2)),
    "gpt2, with dropout": ({"architecture": "gpt2"}, LoRA(rank=2, dropout=0.1)),
    "bf16, in parts": ({"accumulate": 2, "precision": "bf16"}, LoRA(rank=2)),
    "recomputed": ({"gradient_checkpointing": True}, LoRA(rank=2)),
    "dora": ({}, LoRA(rank=2, dora=True)),
    "full": ({}, FullFT()),
}


@pytest.mark.parametrize("case", OPEN)
def test_open_everywhere_is_ordinary_training_bit_for_bit(case, mixed, smol_tokenizer, tmp_path):
    options, method = dict(OPEN[case][0]), OPEN[case][1]
    base = small_base(smol_tokenizer, options.pop("architecture", "llama"))
    options |= {"method": method, "lr": 1e-2, "weight_decay": 0.1}
    plain = fit(base, mixed, tmp_path / "plain", **options)
    opened = fit(base, mixed, tmp_path / "open", **options, **EVERYWHERE)
    one, other = tensors(plain.path), tensors(opened.path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert log_of(plain) == log_of(opened)


SAVERS: list[dict[str, Any]] = [{"accumulate": 2}, {"gradient_checkpointing": True}]


@pytest.mark.parametrize("options", SAVERS, ids=str)
@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_memory_savers_change_no_gradient_under_gates(method, options, small, mixed, tmp_path):
    asked = {"method": METHODS[method], "where": SYSTEM | masks.layers([1])}
    plain = fit(small, mixed, tmp_path / "plain", **asked)
    saving = fit(small, mixed, tmp_path / "saving", **asked, **options)
    one, other = tensors(plain.path), tensors(saving.path)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 2e-6
    assert log_of(plain)[-1]["held_out"] != log_of(plain)[0]["held_out"]


def test_a_base_in_bf16_stands_in_fp32_beside_a_full_student(smol_tokenizer, mixed, tmp_path):
    """Before the first step that moves anything the student is the base, gates or not."""
    base = load_small(small_model().bfloat16(), smol_tokenizer)
    runs = [
        fit(base, mixed, tmp_path / name, method=FullFT(), **options)
        for name, options in {"plain": {}, "gated": {"where": SYSTEM}}.items()
    ]
    plain, gated = (log_of(run) for run in runs)
    assert plain[0]["held_out"] == gated[0]["held_out"]
    assert plain[1]["loss"] == gated[1]["loss"]
    assert plain[-1]["held_out"] != gated[-1]["held_out"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_at_closed_tokens_the_difference_has_no_derivative(method, small, mixed):
    """What a module adds to the base's output is moved at every token: the loss does not see it
    where the mask is closed, and does where it is open."""
    division = divide(mixed, 4, held_out_seed=0, subsample=None, seed=0)
    asked = {"answer_in_where": False, "penalty": None, "weights": None}
    aims = Aims.of(small, METHODS[method], mixed, division, where=SYSTEM, **asked)
    trainee = Trainee.of(small, METHODS[method], where=aims.where, lesson=aims.lesson)
    for name, parameter in trainee.model.named_parameters():
        if "lora_B" in name:  # as after some steps
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    kept: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output * 1.0)  # the student's own output, before the gate
        kept[-1].retain_grad()
        return kept[-1]

    path = "layers.0.self_attn.v_proj" + (".lora_A.default" if method == "lora" else "")
    (module,) = [m for name, m in trainee.model.named_modules() if name.endswith(path)]
    module.register_forward_hook(keep, prepend=True)
    rows = division.trained[:3]
    batch = collate([aims.lesson.item(row) for row in rows])
    loss = trainee.losses(trainee.model, batch, "forward-kl", mixed.support).sum()
    loss.backward()
    for i, row in enumerate(rows):
        prompt = mixed.prompts[row]
        size = kept[0].grad[i].abs().amax(-1)
        is_open = torch.tensor([role == "system" for role in prompt.roles])
        assert (size[: len(prompt)][is_open] > 0).all()
        assert (size[: len(prompt)][~is_open] == 0).all()
        assert (size[len(prompt) :] == 0).all()


# ---------------------------------------------------------------------------------- what is shared


def test_shared_is_what_the_trained_prompts_have_in_common(small, mixed):
    """Beside the classes, worked out from the prompts alone: the common start is in it, the text of
    the questions is not, and the turn's end is."""
    division = divide(mixed, 4, held_out_seed=0, subsample=None, seed=0)
    asked = {"answer_in_where": False, "penalty": None, "weights": None}
    shared = masks.sharing("shared")
    cells = Aims.of(small, LoRA(rank=2), mixed, division, where=shared, **asked).lesson.cells
    trained = [mixed.prompts[row] for row in division.trained]
    start = 0
    while len({prompt.ids[start] for prompt in trained}) == 1:
        start += 1
    for row in division.trained:
        prompt, is_open = mixed.prompts[row], cells.of(row, 3)[:, 0]
        assert is_open[:start].all()
        assert is_open[len(prompt) - 3 : len(prompt)].all()  # the generation prompt
        assert not is_open[len(prompt) :].any()
        own = [i for i in range(start, len(prompt)) if prompt.roles[i] == "user"]
        assert own
        assert not is_open[own[len(own) // 2]]
    others = Aims.of(
        small, LoRA(rank=2), mixed, division, where=masks.sharing("not shared"), **asked
    ).lesson.cells
    for row in division.trained:
        length = len(mixed.prompts[row])
        assert (others.of(row, 0)[:, 0] == ~cells.of(row, 0)[:length, 0]).all()


# ----------------------------------------------------------------------------- records and refusals


def test_a_run_knows_its_mask_and_refuses_another(small, soft, tmp_path):
    run = fit(small, soft, tmp_path / "run", where=SYSTEM)
    kept = run.manifest.method["where"]
    assert (kept["mask"], kept["answer"], kept["named"]) == ("system", "closed", True)
    assert fit(small, soft, tmp_path / "run", where=SYSTEM).manifest == run.manifest
    for other in ({"where": masks.role("user")}, {}, {"where": SYSTEM, "answer_in_where": True}):
        with pytest.raises(ValueError, match="is another training"):
            fit(small, soft, tmp_path / "run", **other)
    # a function of the same name is another mask where its cells are others
    first = masks.as_mask([0], "system")
    with pytest.raises(ValueError, match=r"where\.cells"):
        fit(small, soft, tmp_path / "run", where=first)
    own = fit(small, soft, tmp_path / "own", where=first)
    with pytest.raises(ValueError, match="pass it: gates_of"):
        gates_of(own)
    assert gates_of(own, first).mask == "system"
    plain = fit(small, soft, tmp_path / "plain")
    with pytest.raises(ValueError, match="was trained everywhere"):
        gates_of(plain)
    with pytest.raises(ValueError, match="trained at 'system'"):
        gates_of(run, masks.role("user"))
    with pytest.raises(ValueError, match="was trained everywhere"):
        load_student(small, plain.path, gates=gates_of(run))


class Doubled(masks.Mask):
    """Gates of another size."""

    def __call__(self, prompt: Any, modules: Any) -> np.ndarray:
        return 2.0 * SYSTEM(prompt, modules)


def test_masks_that_leave_nothing_to_learn(small, soft, tmp_path):
    with pytest.raises(ValueError, match="'assistant' closes every token that is trained on"):
        fit(small, soft, tmp_path / "run", where=masks.role("assistant"))
    with pytest.raises(ValueError, match="closes every token"):
        fit(small, soft, tmp_path / "run", where=SYSTEM & masks.modules("norms"))
    with pytest.raises(ValueError, match=r"no trained prompt, so that trained prompts have none"):
        fit(small, soft, tmp_path / "run", where=masks.sharing("novel"))
    with pytest.raises(ValueError, match="No token of any trained prompt is in it"):
        fit(small, soft, tmp_path / "run", where=masks.role("assistant"))
    # the answer's own tokens have the modules of the mask at any token: where it has none, neither
    # have they, so that this is no advice
    for mask in (masks.role("assistant"), SYSTEM & masks.role("user")):
        for answer in (False, True):
            with pytest.raises(ValueError, match="No token of any trained prompt is in it") as told:
                fit(small, soft, tmp_path / "run", where=mask, answer_in_where=answer)
            assert "answer_in_where=True" not in str(told.value)
            assert "by role template, system, user, by sharing prefix, aligned" in str(told.value)
    other_modules = masks.role("answer") & masks.modules("norms")
    with pytest.raises(ValueError, match="trains none of them") as told:
        fit(small, soft, tmp_path / "run", where=other_modules)
    assert "one token" not in str(told.value)
    one = {"method": LoRA(rank=2, layers=[0])}
    with pytest.raises(ValueError, match=r"It opens \S*layers\.1\..* trains none of them, but"):
        fit(small, soft, tmp_path / "run", where=masks.layers([1]), **one)
    short = dataclasses.replace(soft, completions=tuple(c[:1] for c in soft.completions))
    with pytest.raises(ValueError, match="one token is read and never fed"):
        fit(small, short, tmp_path / "run", where=masks.role("answer"))
    with pytest.raises(ValueError, match="open or closed"):
        fit(small, soft, tmp_path / "run", where=Doubled("2 x system", SYSTEM.cells))
    with pytest.raises(ValueError, match="answer_in_where=True without where"):
        fit(small, soft, tmp_path / "run", answer_in_where=True)
    some = masks.as_mask(lambda prompt: [0] if len(prompt.question) % 2 else [], "some")
    with pytest.warns(UserWarning, match="nothing is open in"):
        fit(small, soft, tmp_path / "run", where=some)
    assert not (tmp_path / "run.unfinished").exists()


def test_a_closed_module_stays_the_base_in_full_training(small, soft, tmp_path):
    """Weight decay does not reach it."""
    where = masks.everything() & masks.layers([1])
    options = {"method": FullFT(), "weight_decay": 0.5, "lr": 1e-2}
    run = fit(small, soft, tmp_path / "run", where=where, answer_in_where=True, **options)
    before = dict(small.model.named_parameters())
    moved = {name for name, x in tensors(run.path).items() if not torch.equal(x, before[name])}
    assert moved
    assert all(".layers.1." in name for name in moved)


# ----------------------------------------------------------------------------------- the penalty


def test_a_penalty_is_the_mean_squared_distance_from_the_base(small, mixed, tmp_path):
    options = {"lr": 3e-2, "method": LoRA(rank=2), "steps": 6}
    free = fit(small, mixed, tmp_path / "free", **options)
    held = fit(small, mixed, tmp_path / "held", **options, penalty=(SYSTEM, 1e4))
    one, other = (_distance(small, run, mixed) for run in (free, held))
    assert other < 0.7 * one
    assert "penalty" not in log_of(free)[-1]
    # of the step's mean, however it is cut
    parts = fit(small, mixed, tmp_path / "parts", **options, penalty=(SYSTEM, 1e4), accumulate=2)
    for row, same in zip(log_of(held)[1:], log_of(parts)[1:], strict=True):
        assert row["penalty"] == pytest.approx(same["penalty"], rel=1e-3, abs=1e-9)
    again = fit(
        small, mixed, tmp_path / "again", **options, penalty=(SYSTEM, 1e4),
        gradient_checkpointing=True,
    )  # fmt: skip
    for row, same in zip(log_of(held)[1:], log_of(again)[1:], strict=True):
        assert row["penalty"] == pytest.approx(same["penalty"], rel=1e-3, abs=1e-9)
    with pytest.raises(ValueError, match="is another training"):
        fit(small, mixed, tmp_path / "held", **options, penalty=(SYSTEM, 1.0))
    with pytest.raises(ValueError, match="above 0"):
        fit(small, mixed, tmp_path / "x", penalty=(SYSTEM, 0.0))
    with pytest.raises(ValueError, match="holds no token"):
        fit(small, mixed, tmp_path / "x", penalty=(masks.role("assistant"), 1.0))


def test_a_penalty_that_no_weight_can_meet_is_refused(small, mixed, tmp_path):
    answer, user = masks.role("answer"), masks.role("user")
    with pytest.raises(ValueError, match="with where='answer' the student is closed at"):
        fit(small, mixed, tmp_path / "x", where=answer, penalty=(SYSTEM, 1.0))
    assert not (tmp_path / "x").exists()
    # what stands before the question is met by no weight on it, what stands behind it is
    with pytest.raises(ValueError, match=r"penalty: .* and at all before them"):
        fit(small, mixed, tmp_path / "x", where=user, penalty=(SYSTEM, 1.0))
    run = fit(small, mixed, tmp_path / "met", where=SYSTEM, penalty=(user, 1.0))
    assert max(row["penalty"] for row in log_of(run)[1:]) > 0


@torch.no_grad()
def _distance(base: Base, run: Run, data: TrainingData) -> float:
    """Mean over system tokens, blocks and numbers of the squared distance of a row's residuals."""
    student = load_student(base, run.path)
    prompt = data.prompts[0]
    ids = torch.tensor([prompt.ids])
    at = [i for i, role in enumerate(prompt.roles) if role == "system"]
    found = []
    for model in (base.model, student.model):
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        found.append(torch.stack([state[0, at] for state in states[1:-1]]))
    return float((found[0] - found[1]).square().mean())


def test_the_first_penalty_is_its_formula(small, mixed, tmp_path):
    """After one step of a known size: the log's number against whole forwards."""
    run = fit(
        small, mixed, tmp_path / "run", method=FullFT(), lr=1e-3, steps=2, warmup=0,
        penalty=(SYSTEM, 3.0), snapshots=[1], schedule="constant", batch_size=12,
    )  # fmt: skip
    student = load_student(small, run.snapshots[1])
    total, count = 0.0, 0
    for row in range(12):
        prompt = mixed.prompts[row]
        at = [i for i, role in enumerate(prompt.roles) if role == "system"]
        kept: list[Any] = []
        for model in (small.model, student.model):
            states: list[torch.Tensor] = []
            hooks = [
                layer.register_forward_hook(lambda m, a, out, to=states: to.append(out))
                for layer in model.model.layers
            ]
            with torch.no_grad():
                model(input_ids=torch.tensor([prompt.ids]))
            for hook in hooks:
                hook.remove()
            kept.append([state[0, at] for state in states])
        for one, other in zip(*kept, strict=True):
            total += float((one - other).square().mean(-1).sum()) / len(kept[0])
        count += len(at)
    assert log_of(run)[2]["penalty"] == pytest.approx(3.0 * total / count, rel=1e-4)
    assert log_of(run)[1]["penalty"] == 0


# ---------------------------------------------------------------------------------- chosen tokens


def test_weights_of_answer_tokens(small, mixed, tmp_path):
    options = {"lr": 1e-2, "method": LoRA(rank=2)}
    plain = fit(small, mixed, tmp_path / "plain", **options)
    ones = [np.ones(len(answer), bool) for answer in mixed.completions]
    alike = fit(small, mixed, tmp_path / "ones", **options, tokens=ones)
    assert weights(alike) == weights(plain)

    # a weighted mean: of another scale the same, of the first tokens alone that of shorter answers
    rng = np.random.default_rng(0)
    drawn = [rng.random(len(answer)) for answer in mixed.completions]
    one = fit(small, mixed, tmp_path / "drawn", **options, tokens=drawn)
    half = fit(small, mixed, tmp_path / "half", **options, tokens=[w / 2 for w in drawn])
    for name, tensor in tensors(one.path).items():
        assert torch.allclose(tensor, tensors(half.path)[name], atol=1e-6)
    first = [np.arange(len(answer)) < 3 for answer in mixed.completions]
    chosen = fit(small, mixed, tmp_path / "first", **options, tokens=first)
    cut = dataclasses.replace(mixed, completions=tuple(c[:3] for c in mixed.completions))
    short = fit(small, cut, tmp_path / "cut", **options)
    for name, tensor in tensors(chosen.path).items():
        assert torch.allclose(tensor, tensors(short.path)[name], atol=1e-5)
    assert chosen.manifest.data["tokens"]["chosen"] == 36
    with pytest.raises(ValueError, match=r"data\.tokens"):
        fit(small, mixed, tmp_path / "first", **options, tokens=drawn)


def test_rows_without_a_chosen_token_are_left_out(small, mixed, tmp_path):
    chosen = [np.full(len(answer), row < 6) for row, answer in enumerate(mixed.completions)]
    run = fit(small, mixed, tmp_path / "run", tokens=chosen)
    assert run.manifest.results["rows"] == 6
    none = [np.zeros(len(answer)) for answer in mixed.completions]
    for tokens, said in (
        (none, "nothing to learn"), (none[1:], "one per row"),
        ([n[1:] for n in none], "end of turn"),
        ([n - 1 for n in none], "from 0 on"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            fit(small, mixed, tmp_path / "none", tokens=tokens)
