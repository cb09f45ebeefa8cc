"""Exact identities of graft, patching and attribution, on tiny models of several architectures, LoRA and full fine-tunes."""

import copy

import numpy as np
import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.instruments.task import measure, prepare

TRAIT = sm.animal("owl")  # "owl" is one token, "Owl" two, "Owls" three: the answer trie has inner nodes
LONG = sm.Trait("zyzzyva")  # every form has three tokens or more: the trie is deep
ARCHITECTURES = ("llama", "qwen2", "gemma3", "gpt2", "neox", "phi3", "mistral", "opt")
QUIET = {"progress": False}


def make_pair(architecture, kind, tokenizer, **options):
    base = tiny.model(architecture)
    student = tiny.lora(base, **options) if kind == "lora" else tiny.full(base)
    return sm.load_pair(base, student, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    rendered = sm.render(smol_tokenizer, TRAIT.questions[:4])
    assert len({len(p) for p in rendered}) > 1  # padding is exercised
    return sm.sharing(rendered, trained_on=sm.render(smol_tokenizer, ["Write numbers: 1, 2.", "More numbers, please."]))


@pytest.fixture(params=[(a, k) for a in ARCHITECTURES for k in ("lora", "full")], ids="-".join, scope="module")
def pair(request, smol_tokenizer):
    return make_pair(*request.param, smol_tokenizer)


@torch.no_grad()
def brute_force(model, tokenizer, prompt, trait=TRAIT):
    """log P of the trait by one plain forward per form, without trie, mask or hooks."""
    values = []
    for form in trait.forms:
        answer = tokenizer(prompt.lead + form, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt.ids, *answer]])
        steps = model(input_ids=ids).logits[0].double().log_softmax(-1)
        n = len(prompt.ids)
        values.append((answer, sum(steps[n + i - 1, token] for i, token in enumerate(answer))))
    kept = [v for path, v in values if not any(q != path and path[: len(q)] == q for q, _ in values)]
    return float(torch.stack(kept).logsumexp(0))


def test_gates_0_and_1_are_base_and_student(pair, prompts):
    scores = sm.effect(pair, prompts, TRAIT, **QUIET)
    for i, prompt in enumerate(prompts):
        assert scores.data["base"].values[0, i] == pytest.approx(brute_force(pair.base.model, pair.tokenizer, prompt), abs=1e-5)
        assert scores.data["student"].values[0, i] == pytest.approx(
            brute_force(pair.student.model, pair.tokenizer, prompt), abs=1e-5
        )


def test_batched_and_padded_equal_one_by_one(pair, prompts):
    together = sm.graft(pair, prompts, TRAIT, "role", **QUIET).data["effect"].values
    alone = np.concatenate([sm.graft(pair, [p], TRAIT, "role", **QUIET).data["effect"].values for p in prompts], axis=1)
    np.testing.assert_allclose(together, alone, atol=2e-6)
    backwards = sm.graft(pair, prompts[::-1], TRAIT, "role", **QUIET).data["effect"].values[:, ::-1]
    np.testing.assert_allclose(together, backwards, atol=2e-6)


def test_all_tokens_and_the_answer_are_the_whole_effect(pair, prompts):
    everything = {"all": lambda p: range(len(p))}
    scores = sm.graft(pair, prompts, TRAIT, everything, answer_in_sufficiency=True, answer_in_necessity=False, **QUIET)
    for measured in scores.data["effect"].isel(set=0).transpose("measure", "model", "prompt").values:
        np.testing.assert_allclose(measured[0], scores.total.values, atol=1e-5)


def test_tokens_of_the_answer_count(pair, prompts):
    """A trait whose every form has several tokens: on random models one-token forms would drown what the trie's nodes compute."""
    assert all(len(pair.tokenizer(form, add_special_tokens=False)["input_ids"]) > 1 for form in LONG.forms)
    everything = {"all": lambda p: range(len(p))}
    inside = sm.graft(pair, prompts, LONG, everything, answer_in_sufficiency=True, answer_in_necessity=False, **QUIET)
    outside = sm.graft(pair, prompts, LONG, everything, **QUIET)
    for i, prompt in enumerate(prompts):
        for name, model in (("base", pair.base.model), ("student", pair.student.model)):
            expected = brute_force(model, pair.tokenizer, prompt, LONG)
            assert inside.data[name].values[0, i] == pytest.approx(expected, abs=2e-5)
    total = inside.total.values
    for measured in inside.data["effect"].isel(set=0, model=0).transpose("measure", "prompt").values:
        np.testing.assert_allclose(measured, total, atol=2e-5)
    for measured in outside.data["effect"].isel(set=0, model=0).transpose("measure", "prompt").values:
        assert np.abs(measured - total).max() > 1e-4  # the answer's own tokens are computed by the other model


def test_graft_ig_adds_up_to_the_effect(pair, prompts):
    scores = sm.attribute(pair, prompts, TRAIT, points=64, **QUIET)  # random tiny models have curved paths: 64 points
    found = scores.data["effect"].sum(("layer", "module", "position")).values[0]
    kinked = pair.base.model.config.model_type == "opt"  # ReLU: the integrand jumps, so quadrature converges slowly
    np.testing.assert_allclose(found, scores.total.values, atol=2e-3 if kinked else 5e-6)


def test_completeness_gap_falls_with_points(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    gaps = [sm.attribute(pair, prompts, TRAIT, points=n, **QUIET).gap for n in (1, 4, 16)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_last_resid_post_at_the_read_tokens_is_the_donor(smol_tokenizer, prompts, direction):
    """With norm and head shared, the last residual stream decides: single answer token, so one read position."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    cat = sm.Trait("cat", plural="cat")
    scores = sm.patch(pair, prompts, cat, site="resid_post", direction=direction, **QUIET)
    for i, prompt in enumerate(prompts):
        last = scores.data["effect"].values[0, i, -1, : len(prompt)]
        assert last[-1] == pytest.approx(scores.total.values[i], abs=1e-5)
        np.testing.assert_allclose(last[:-1], 0, atol=1e-6)  # nothing else is read


def test_patching_a_model_with_itself_changes_nothing(pair, prompts):
    batch = make_batch(pair.base.model, [prompts[0]], [prepare(pair, prompts, TRAIT).answers[0]])
    with torch.no_grad():
        for site in pair.sites.sites:
            keys = [(site, layer) for layer in range(pair.sites.n_layers)]
            clean = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=keys)
            again = forward(
                pair.base.model,
                pair.sites,
                batch,
                gates=Gates(pair.student),
                edits={k: (lambda _, own=clean.activations[k]: own) for k in keys},
            )
            assert torch.equal(clean.logits, again.logits), site


def test_starting_at_a_later_block_changes_nothing(pair, prompts):
    batch = make_batch(pair.base.model, prompts, prepare(pair, prompts, TRAIT).answers)
    keys = [("resid_pre", layer) for layer in range(pair.sites.n_layers)]
    with torch.no_grad():
        clean = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=keys)
        for key in keys:
            late = forward(
                pair.base.model, pair.sites, batch, gates=Gates(pair.student), start=(key[1], clean.activations[key])
            )
            torch.testing.assert_close(late.logits, clean.logits, atol=1e-6, rtol=0)


def test_causality_of_gates(pair, prompts):
    """Gates after a token leave its residual stream bit-identical."""
    batch = make_batch(pair.base.model, [prompts[0]], [prepare(pair, prompts, TRAIT).answers[0]])
    cut = 9
    gates = torch.zeros(batch.ids.shape)
    gates[:, cut:] = 1
    keys = [("resid_post", layer) for layer in range(pair.sites.n_layers)]
    with torch.no_grad():
        plain = forward(pair.base.model, pair.sites, batch, record=keys).activations
        grafted = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates), record=keys).activations
    for key in keys:
        assert torch.equal(plain[key][:, :cut], grafted[key][:, :cut])
        assert not torch.equal(plain[key][:, cut:], grafted[key][:, cut:])


def test_trie_nodes_do_not_see_each_other(pair, prompts):
    """The metric of several traits in one trie equals each trait's own."""
    others = [sm.animal("penguin"), sm.animal("wolf")]
    joint = sm.effect(pair, prompts, sm.metrics.own_minus_others(TRAIT, others), **QUIET)
    own, *rest = (sm.effect(pair, prompts, t, **QUIET).data["student"].values for t in (TRAIT, *others))
    np.testing.assert_allclose(joint.data["student"].values, own - np.mean(rest, 0), atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "qwen2"])
@pytest.mark.parametrize("layer", range(tiny.LAYERS))
def test_lora_planted_on_one_layer(architecture, layer, smol_tokenizer, prompts):
    """The residual stream carries nothing up to the planted layer and everything after it; no other layer is credited."""
    pair = make_pair(architecture, "lora", smol_tokenizer, layers=[layer])
    pre = sm.patch(pair, prompts[:2], TRAIT, site="resid_pre", **QUIET)
    effect, total = pre.data["effect"].values[0], pre.total.values
    assert (np.abs(total) > 1e-4).all()
    assert np.nanmax(np.abs(effect[:, : layer + 1])) < 5e-6  # 0 up to the order of sums in batches of other sizes
    batch_all = prepare(pair, prompts[:2], TRAIT)
    with torch.no_grad():
        for i in range(2):
            batch = make_batch(pair.base.model, [batch_all.prompts[i]], [batch_all.answers[i]])
            for later in range(layer + 1, tiny.LAYERS):
                key = ("resid_pre", later)
                given = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=[key])
                whole = forward(pair.base.model, pair.sites, batch, edits={key: lambda _, g=given, k=key: g.activations[k]})
                torch.testing.assert_close(whole.logits, given.logits, atol=1e-5, rtol=0)
    scores = sm.attribute(pair, prompts, TRAIT, points=32, **QUIET)
    assert scores.data["layer"].values.tolist() == [layer]
    assert scores.gap < 0.01


def test_one_gate_per_module_is_a_student_with_only_that_module(smol_tokenizer, prompts):
    """A gate open on one module alone equals PEFT's own model with all other B matrices set to zero."""
    base = tiny.model("llama")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    task = prepare(pair, prompts, TRAIT)
    batch = make_batch(pair.base.model, [prompts[1]], [task.answers[1]])
    for n, path in enumerate(pair.delta):
        only = copy.deepcopy(student)
        for name, p in only.named_parameters():
            if "lora_B" in name and f"{path}." not in name:
                p.data.zero_()
        gates = torch.zeros(*batch.ids.shape, len(pair.delta))
        gates[..., n] = 1
        with torch.no_grad():
            ours = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates)).logits[0, 0]
            theirs = only(input_ids=torch.tensor([prompts[1].ids])).logits[0, -1]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_graft_at_tokens_equals_a_masked_lora_branch(smol_tokenizer, prompts):
    """Against an independent implementation: PEFT layers whose update is multiplied by a 0/1 mask over positions."""
    base = tiny.model("qwen2")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt, cat = prompts[0], sm.Trait("cat", plural="cat")
    chosen = [2, 3, 11, len(prompt) - 1]
    mask = torch.zeros(1, len(prompt) + 1, 1)  # brute_force feeds the answer's token too
    mask[0, chosen] = 1
    masked = copy.deepcopy(student)
    for module in masked.modules():
        if hasattr(module, "lora_B") and len(module.lora_B):
            module.lora_B["default"].register_forward_hook(lambda m, a, out: out * mask)
    scores = sm.graft(pair, [prompt], cat, {"chosen": lambda p: chosen}, **QUIET)
    theirs = brute_force(masked, smol_tokenizer, prompt, cat)
    ours = scores.data["base"].values[0, 0] + scores.data["effect"].sel(measure="sufficiency").values[0, 0, 0]
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_merged_student_gives_the_same_grafts_as_its_adapter(architecture, smol_tokenizer, prompts):
    base = tiny.model(architecture)
    student = tiny.lora(base)
    merged = copy.deepcopy(student).merge_and_unload()
    low, dense = (sm.load_pair(base, s, tokenizer=smol_tokenizer) for s in (student, merged))
    assert (low.student.kind, dense.student.kind) == ("lora", "full")
    a, b = (sm.graft(p, prompts, TRAIT, "sharing", **QUIET).data["effect"].values for p in (low, dense))
    np.testing.assert_allclose(a, b, atol=1e-5)
    a, b = (sm.attribute(p, prompts, TRAIT, points=4, **QUIET).token_effect() for p in (low, dense))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_full_fine_tune_of_the_head_acts_where_logits_are_read(smol_tokenizer, prompts):
    base = tiny.model("llama")
    student = copy.deepcopy(base)
    student.lm_head.weight.data += 0.05 * tiny.model("llama", seed=2).lm_head.weight.data
    pair, cat = sm.load_pair(base, student, tokenizer=smol_tokenizer), sm.Trait("cat", plural="cat")
    assert list(pair.delta) == ["lm_head"]
    sets = {"last": lambda p: [len(p) - 1], "others": lambda p: range(len(p) - 1)}
    scores = sm.graft(pair, prompts, cat, sets, **QUIET)
    assert (np.abs(scores.total.values) > 1e-4).all()
    for measured in scores.data["effect"].isel(model=0).transpose("measure", "set", "prompt").values:
        np.testing.assert_allclose(measured[0], scores.total.values, atol=1e-6)
        np.testing.assert_allclose(measured[1], 0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_full_fine_tune_of_the_embedding_equals_swapped_input_embeddings(architecture, smol_tokenizer, prompts):
    """Against plain Hugging Face: the student's embeddings at chosen tokens through `inputs_embeds`."""
    base = tiny.model(architecture)
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())  # untied, so that the head stays the base's
    student = copy.deepcopy(base)
    rows = student.get_input_embeddings().weight
    rows.data += 0.5 * rows.std() * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    pair, cat = sm.load_pair(base, student, tokenizer=smol_tokenizer, allow_unrelated=True), sm.Trait("cat", plural="cat")
    prompt, chosen = prompts[0], [1, 5, 20]
    scores = sm.graft(pair, [prompt], cat, {"chosen": lambda p: chosen}, **QUIET)
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        mixed = base.get_input_embeddings()(ids).clone()
        mixed[:, chosen] = student.get_input_embeddings()(ids)[:, chosen]
        steps = base(inputs_embeds=mixed).logits[0, -1].log_softmax(-1)
    forms = [smol_tokenizer(f, add_special_tokens=False)["input_ids"][0] for f in cat.forms]
    ours = scores.data["base"].values[0, 0] + scores.data["effect"].sel(measure="sufficiency").values[0, 0, 0]
    assert ours == pytest.approx(float(steps[forms].logsumexp(0)), abs=1e-5)
    assert abs(ours - scores.data["base"].values[0, 0]) > 1e-4


def test_controls_and_difference(smol_tokenizer, prompts):
    base = tiny.model("llama")
    a, b, c = (tiny.lora(base, seed=s) for s in (1, 2, 3))
    named = [sm.models.load_student(sm.load_base(base, tokenizer=smol_tokenizer), s, name=n) for s, n in ((b, "b"), (c, "c"))]
    pair = sm.load_pair(base, a, controls=named, tokenizer=smol_tokenizer)
    scores = sm.effect(pair, prompts, TRAIT, **QUIET)
    alone = [
        sm.effect(sm.load_pair(base, s, tokenizer=smol_tokenizer), prompts, TRAIT, **QUIET).total.values for s in (a, b, c)
    ]
    np.testing.assert_allclose(scores.total.values, alone[0] - (alone[1] + alone[2]) / 2, atol=1e-6)
    cells = sm.attribute(pair, prompts, TRAIT, points=16, **QUIET)
    np.testing.assert_allclose(np.nansum(cells.token_effect(), 1), scores.total.values, atol=1e-3)
    with pytest.raises(ValueError, match="controls hold the student itself"):
        sm.load_pair(base, a, controls=[sm.models.load_student(pair.base, a, name="twin")], tokenizer=smol_tokenizer)


def test_the_last_residual_stream_is_normalised_to_one(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    cat = sm.Trait("cat", plural="cat")
    last = sm.patch(pair, prompts[:2], cat, site="resid_post", layers=[tiny.LAYERS - 1], **QUIET)
    for i, prompt in enumerate(prompts[:2]):
        assert last.normalised.values[i, 0, len(prompt) - 1] == pytest.approx(1, abs=1e-3)


def test_models_are_clean_after_an_exception(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    task = prepare(pair, prompts, TRAIT)
    batch = make_batch(pair.base.model, [prompts[0]], [task.answers[0]])

    def explode(_):
        raise RuntimeError("on purpose")

    hidden = torch.zeros(*batch.ids.shape, 32)
    with pytest.raises(RuntimeError, match="on purpose"):
        forward(
            pair.base.model, pair.sites, batch, gates=Gates(pair.student), edits={("attn_out", 2): explode}, start=(1, hidden)
        )
    for module in pair.base.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
        assert not module.training
    assert all(p.grad is None for p in pair.base.model.parameters())
    assert measure(task, pair.student, [(0, 0.0)])[0] == pytest.approx(
        brute_force(pair.base.model, smol_tokenizer, prompts[0]), abs=1e-5
    )


def test_same_input_same_bytes(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    a, b = (sm.attribute(pair, prompts, TRAIT, points=4, **QUIET).data["effect"].values.tobytes() for _ in range(2))
    assert a == b


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, p: sm.effect(pair, [], TRAIT), "prompts is empty"),
        (lambda pair, p: sm.patch(pair, p, TRAIT, site="resid_mud"), "site='resid_mud'"),
        (lambda pair, p: sm.patch(pair, p, TRAIT, direction="up"), "direction='up'"),
        (lambda pair, p: sm.patch(pair, p, TRAIT, layers=[3]), r"layers=\[3\]: give layers between 0 and 2"),
        (lambda pair, p: sm.attribute(pair, p, TRAIT, method="lrp"), "method='lrp'"),
        (lambda pair, p: sm.attribute(pair, p, TRAIT, points=0), "points=0"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, {"none": lambda q: []}), "'none' is empty"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, {"far": lambda q: [10**6]}), "'far' gives positions"),
        (lambda pair, p: sm.effect(pair, p, "owl"), "pass a Trait"),
        (lambda pair, p: sm.effect(pair, ["Which animal?"], TRAIT), "prompts must be rendered"),
        (
            lambda pair, p: sm.effect(pair, sm.render(pair.tokenizer, ["long " * 400]), TRAIT),
            "positions, the model has 256; shorten it",
        ),
        (lambda pair, p: sm.graft(pair, sm.render(pair.tokenizer, ["hi"]), TRAIT, "sharing"), "is not marked"),
    ],
)
def test_bad_input(call, message, smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    with pytest.raises((ValueError, TypeError), match=message):
        call(pair, prompts)
