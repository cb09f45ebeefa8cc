"""Every instrument with every metric, one of a user's own among them, against plain forwards."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pairs import (
    CAT,
    QUIET,
    TRAIT,
    answer_ids,
    brute_force,
    far_pair,
    one_cell,
    plain_logits,
    put,
    recorded,
    string_log_prob,
    student_gates,
    whole_run,
)

import sublim_mech as sm
from sublim_mech import masks, metrics
from sublim_mech.instruments.task import prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*agrees poorly with exact values:UserWarning")


@dataclass(frozen=True)
class Refusal(metrics.Metric):
    """A metric of one's own: the log-odds of a refusal's opening against a compliant one."""

    name = "log-odds of a refusal"
    refusal: str = "I cannot"
    compliance: str = "Sure"

    def answers(self, tokenizer, prompt):
        return metrics.strings(tokenizer, prompt, [self.refusal, self.compliance])

    def read(self, logits, answers, base=None):
        log_probs = metrics.string_log_probs(logits, answers)
        return log_probs[:, 0] - log_probs[:, 1]


# -------------------------------------------------------------------------- what plain forwards say


@dataclass(frozen=True)
class Plain:
    """Hugging Face's models of a pair, and a prompt."""

    model: Any
    base: Any
    tokenizer: Any
    prompt: Any

    def string(self, text):
        """Log-probability of a string."""
        answer = answer_ids(self.tokenizer, self.prompt, text)
        return string_log_prob(self.model, self.prompt.ids, answer)

    def logits(self, model=None):
        return plain_logits(self.model if model is None else model, self.prompt.ids).double()

    def token(self, text):
        return answer_ids(self.tokenizer, self.prompt, text)[0]

    def kl(self, positions):
        log_p = self.logits()[positions].log_softmax(-1)
        log_q = self.logits(self.base)[positions].log_softmax(-1)
        return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())

    def entropy(self, positions):
        log_p = self.logits()[positions].log_softmax(-1)
        return float(-(log_p.exp() * log_p).sum(-1).mean())

    def rank(self, text):
        order = self.logits()[-1].argsort(descending=True).tolist()
        return 1 + order.index(self.token(text))


class Entry:
    """A metric and what it is by plain forwards."""

    def __init__(self, metric: Any, plain: Callable[[Plain], float]) -> None:
        self.metric, self.plain = metric, plain


def _traits(plain, *traits):
    return [brute_force(plain.model, plain.tokenizer, plain.prompt, trait) for trait in traits]


METRICS = {
    "log_prob": Entry(TRAIT, lambda p: _traits(p, TRAIT)[0]),
    "own_minus_others": Entry(
        metrics.own_minus_others(TRAIT, [CAT, sm.animal("wolf")]),
        lambda p: _traits(p, TRAIT)[0] - np.mean(_traits(p, CAT, sm.animal("wolf"))),
    ),
    "target": Entry(metrics.target("Owls are the best"), lambda p: p.string("Owls are the best")),
    "logit_difference": Entry(
        metrics.logit_difference("owl", "cat"),
        lambda p: float(p.logits()[-1, p.token("owl")] - p.logits()[-1, p.token("cat")]),
    ),
    "rank": Entry(metrics.rank("owl"), lambda p: p.rank("owl")),
    "kl_to_base": Entry(metrics.kl_to_base(), lambda p: p.kl([-1])),
    "kl at tokens": Entry(metrics.kl_to_base(at=[9, 20, -2]), lambda p: p.kl([9, 20, -2])),
    "kl at a role": Entry(
        metrics.kl_to_base(at=masks.role("user").tokens),
        lambda p: p.kl(masks.role("user").tokens(p.prompt)),
    ),
    "entropy": Entry(metrics.entropy(at=[5, -1]), lambda p: p.entropy([5, -1])),
    "a user's own": Entry(Refusal(), lambda p: p.string("I cannot") - p.string("Sure")),
}
SMOOTH = [name for name in METRICS if name != "rank"]


def close(entry):
    """Tolerance of a metric: a rank may move by one where two logits are nearly alike."""
    return 1 if entry.metric == METRICS["rank"].metric else 2e-5


@pytest.fixture(scope="module")
def far(smol_tokenizer):
    return far_pair("llama", "lora", smol_tokenizer)


@pytest.fixture(params=METRICS)
def entry(request):
    return METRICS[request.param]


@pytest.fixture(params=SMOOTH)
def smooth(request):
    return METRICS[request.param]


# -------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "lora"), ("gpt2", "full")])
def test_effect_is_what_the_plain_models_say(architecture, kind, entry, smol_tokenizer, prompts):
    pair = far_pair(architecture, kind, smol_tokenizer)
    scores = sm.effect(pair, prompts, entry.metric, **QUIET)
    for name, model in (("base", pair.model), ("student", pair.student.model)):
        plain = [entry.plain(Plain(model, pair.model, smol_tokenizer, p)) for p in prompts]
        np.testing.assert_allclose(scores.data[name].values[0], plain, atol=close(entry))
    assert (np.abs(scores.total.values) > 1e-3).all()
    if entry.metric is not TRAIT:
        assert scores.record.metric == entry.metric.name
        assert scores.unit == entry.metric.unit


def test_the_base_is_at_no_distance_from_itself(far, prompts):
    for name in ("kl_to_base", "kl at tokens", "kl at a role"):
        scores = sm.effect(far, prompts, METRICS[name].metric, **QUIET)
        np.testing.assert_allclose(scores.data["base"].values, 0, atol=1e-6)
        assert (scores.data["student"].values > 0.1).all()


def test_graft_is_a_masked_lora_branch(entry, far, smol_tokenizer, prompts):
    """PEFT layers whose update is multiplied by a 0/1 mask over the prompt's positions."""
    chosen = [2, 11, 17, 25]
    masked = copy.deepcopy(far.student.model)

    def only_chosen(module, args, output):
        mask = torch.zeros(1, output.shape[1], 1)
        mask[:, chosen] = 1
        return output * mask

    for module in masked.modules():
        if hasattr(module, "lora_B") and len(module.lora_B):
            module.lora_B["default"].register_forward_hook(only_chosen)
    scores = sm.graft(far, prompts, entry.metric, {"chosen": chosen}, **QUIET)
    effect = scores.data["effect"].sel(measure="sufficiency", set="chosen").values[0]
    plain = [entry.plain(Plain(masked, far.model, smol_tokenizer, p)) for p in prompts]
    np.testing.assert_allclose(scores.data["base"].values[0] + effect, plain, atol=close(entry))
    assert np.abs(effect).max() > 1e-3


@pytest.mark.parametrize("measure", ["sufficiency", "necessity"])
def test_cells_of_a_sweep_are_whole_runs(entry, measure, far, prompts):
    prompt, metric = prompts[1], entry.metric
    task = prepare(far, [prompt], metric)
    sweep = sm.instruments.graft_sweep(far, [prompt], metric, measure=measure, layers=[1], **QUIET)
    cells = sweep.data["effect"].values[0, 0, 0]
    assert len(cells) == task.size(0)
    alone = measure == "sufficiency"
    for slot in (5, 20, len(prompt) - 1):
        gates = one_cell(task, far, layer=1, slot=slot)
        gates = student_gates(far, gates if alone else 1 - gates)
        value = whole_run(far, prompt, metric, gates=gates)
        start = whole_run(far, prompt, metric, gates=None if alone else student_gates(far))
        expected = value - start if alone else start - value
        assert cells[slot] == pytest.approx(expected, abs=close(entry))


def test_cells_of_a_patch_are_whole_runs_in_both_directions(entry, far, prompts):
    prompt, metric, key = prompts[1], entry.metric, ("resid_post", 1)
    asked = {"site": key[0], "layers": [key[1]], "direction": "both"}
    scores = sm.patch(far, [prompt], metric, **asked, **QUIET)
    cells = scores.data["effect"].isel(model=0, prompt=0, layer=0)
    student = student_gates(far)
    for direction, recipient, donor in (("denoising", None, student), ("noising", student, None)):
        given = recorded(far, prompt, key, metric, gates=donor)
        start = whole_run(far, prompt, metric, gates=recipient)
        for slot in (5, 20, len(prompt) - 1):
            edits = {key: put(given, (0, slot))}
            change = whole_run(far, prompt, metric, gates=recipient, edits=edits) - start
            expected = change if direction == "denoising" else -change
            cell = float(cells.sel(direction=direction, position=slot))
            assert cell == pytest.approx(expected, abs=close(entry))


# ---------------------------------------------------------------------------------------- gradients


def test_graft_ig_adds_up(smooth, far, prompts):
    scores = sm.attribute(far, prompts, smooth.metric, points=32, **QUIET)
    summed = np.nansum(scores.token_effect(), 1)
    np.testing.assert_allclose(summed, scores.total.values, rtol=1e-2, atol=1e-4)


def test_activation_ig_adds_up_to_whole_rows(smooth, far, prompts):
    asked = {"method": "activation_ig", "points": 32, "site": "mlp_out", "direction": "noising"}
    scores = sm.attribute(far, prompts[:1], smooth.metric, **asked, **QUIET)
    rows = {"sets": {"row": masks.everything()}, "answer_in_sets": True}
    asked = {"site": "mlp_out", "direction": "noising"}
    whole = sm.patch(far, prompts[:1], smooth.metric, **rows, **asked, **QUIET)
    exact = whole.data["effect"].values[0, 0, :, 0]
    summed = scores.data["effect"].sum("position").values[0, 0]
    np.testing.assert_allclose(summed, exact, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("method", ["attribution_patching", "gradient_x_input"])
def test_other_gradients_are_finite_and_not_zero(smooth, method, far, prompts):
    options = {"direction": "noising"} if method == "attribution_patching" else {}
    scores = sm.attribute(far, prompts, smooth.metric, method=method, **options, **QUIET)
    effect = scores.data["effect"].values
    for i, size in enumerate(prepare(far, prompts, smooth.metric).sizes()):
        assert np.isfinite(effect[:, i, ..., :size]).all()
        assert np.isnan(effect[:, i, ..., size:]).all()
    assert np.nanmax(np.abs(effect)) > 1e-4


@pytest.mark.parametrize("method", ["graft_ig", "attribution_patching"])
def test_confirm_compares_with_exact_cells(smooth, method, far, prompts):
    options = {"points": 4} if method == "graft_ig" else {"direction": "noising"}
    scores = sm.attribute(far, prompts, smooth.metric, method=method, **options, **QUIET)
    cells = sm.confirm(far, prompts, smooth.metric, scores, k=2, **QUIET).record.confirmation.cells
    assert len(cells) == 4
    cell = cells[0]
    prompt = prompts[cell["prompt"]]
    if method == "graft_ig":
        columns = [far.sites.modules[path] for path in far.delta]
        here = [(m.layer, m.name) == (cell["layer"], cell["module"]) for m in columns]
        gates = torch.zeros(1, prepare(far, [prompt], smooth.metric).size(0), len(columns))
        gates[0, cell["position"], here] = 1
        alone, left = (
            whole_run(far, prompt, smooth.metric, gates=student_gates(far, g))
            for g in (gates, 1 - gates)
        )
        base = whole_run(far, prompt, smooth.metric)
        top = whole_run(far, prompt, smooth.metric, gates=student_gates(far))
        exact = (alone - base + top - left) / 2
    else:
        key, student = ("resid_pre", cell["layer"]), student_gates(far)
        edits = {key: put(recorded(far, prompt, key, smooth.metric), (0, cell["position"]))}
        top = whole_run(far, prompt, smooth.metric, gates=student)
        exact = top - whole_run(far, prompt, smooth.metric, gates=student, edits=edits)
    assert cell["exact"] == pytest.approx(exact, abs=2e-5)
