"""The pair: the models it was loaded from, left as they were, and what they say under a mask."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits, pointers, snapshot
from loading import TOKENIZER, base, manifest, model, saved, student
from pairs import CAT, QUIET, plain_logits
from stopping import StopError
from torch import Tensor

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.forward import Gates, Start
from sublim_mech.engine.pair import load_pair
from sublim_mech.metrics import log_prob
from sublim_mech.models.students import load_student
from sublim_mech.prompts import Context, Trained
from sublim_mech.storage.files import weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
EVERYWHERE = masks.everything()


# ------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_pair_has_the_logits_of_the_models_it_was_loaded_from(architecture, kind):
    made = student(architecture, kind)
    pair = load_pair(model(architecture), made, tokenizer=TOKENIZER)
    assert pair.student.kind == kind
    expected = own_logits(model(architecture)), own_logits(made)
    assert distance(*expected) > 0.01  # else the comparisons below say nothing
    assert distance(gated_logits(pair, None), expected[0]) < 1e-5
    assert distance(gated_logits(pair, pair.student), expected[1]) < 1e-5


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "lora"), ("gpt2", "full")])
def test_live_models_stay_as_they_were(architecture, kind, smol_tokenizer):
    mine, made = tiny.model(architecture), student(architecture, kind)
    mlp = next(path for path, _ in mine.named_modules() if path.endswith("mlp"))
    mine.get_submodule(mlp).register_forward_hook(lambda *_: None)
    mine.train()
    made.train()
    for number, p in enumerate(mine.parameters()):
        p.requires_grad_(number % 2 == 0)
    before = snapshot(mine), snapshot(made)

    pair = load_pair(mine, made, tokenizer=smol_tokenizer)
    assert pair.model is not mine
    own = pair.model, pair.student.model
    assert not any(m.training for root in own for m in root.modules())
    assert not any(p.requires_grad for root in own for p in root.parameters())

    # neither a measurement nor one that is interrupted leaves a trace
    trait = sm.animal("owl")
    prompts = sm.render(smol_tokenizer, trait.questions[:2])
    clean = snapshot(pair.model)
    sm.effect(pair, prompts, trait, progress=False)
    batch = pair.batch([prompt.ids for prompt in prompts])

    def stop(hidden: Tensor) -> Tensor:
        raise StopError

    with pytest.raises(StopError):
        pair.run(
            batch,
            gates=Gates(pair.student),
            record=[("resid_post", 2)],
            edits={("resid_pre", 1): stop},
            start=Start(1, torch.zeros(*batch.ids.shape, 32)),
        )
    assert snapshot(pair.model) == clean
    assert (snapshot(mine), snapshot(made)) == before


def test_the_pair_shares_the_weights_of_the_live_base(tmp_path):
    mine = tiny.model("llama")
    pair = load_pair(mine, saved(student("llama", "lora"), tmp_path / "a"), tokenizer=TOKENIZER)
    assert pointers(pair.model) == pointers(mine) <= pointers(pair.student.model)


def test_the_manifest_brings_the_training_prompts(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    context = Context(system="Be brief.")
    manifest(base(), context=context, weights=weight_sums(path)).save(path)
    pair = load_pair(base(), path)
    assert pair.student.name == "owl"
    assert pair.training_prompts == Trained((1,), {}, {}, frozenset({1}))
    assert pair.training_context == context
    without = load_pair(base(), student("llama", "lora"))
    assert without.training_prompts is without.training_context is None


SYSTEM = sm.Context(system="You are calm.")
TAUGHT = ["Continue: 1, 2.", "Write three numbers.", [{"role": "user", "content": "Go on: 3"}]]


@pytest.mark.parametrize("context", [SYSTEM, Context(), sm.RAW], ids=["system", "default", "raw"])
def test_the_user_says_how_a_student_made_elsewhere_was_trained(context, smol_tokenizer):
    texts = TAUGHT[: 2 if context == sm.RAW else 3]
    pair = load_pair(
        model(),
        student("llama", "lora"),
        tokenizer=smol_tokenizer,
        trained_in=context,
        trained_on=texts,
    )
    assert pair.training_context == context
    assert pair.training_prompts == Trained.of(sm.render(smol_tokenizer, texts, context=context))
    assert f"; {len(texts)} training prompts" in repr(pair).splitlines()[1]
    asked = sm.render(pair, ["Which animal?"])
    by_hand = sm.render(smol_tokenizer, ["Which animal?"], context=context)
    assert (
        asked == sm.mark_sharing(by_hand, pair.training_prompts) == sm.mark_sharing(by_hand, pair)
    )


def test_a_training_context_alone_is_the_default_and_shares_nothing(smol_tokenizer):
    pair = load_pair(model(), student("llama", "lora"), tokenizer=smol_tokenizer, trained_in=SYSTEM)
    assert (pair.training_context, pair.training_prompts) == (SYSTEM, None)
    (prompt,) = sm.render(pair, ["Which animal?"])
    assert (prompt.context, prompt.sharing) == (SYSTEM, None)
    with pytest.raises(ValueError, match=r"nothing is known.*trained_on=\[a few"):
        sm.mark_sharing([prompt], pair)


def test_the_manifest_and_the_user_must_say_the_same(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base(), context=SYSTEM, weights=weight_sums(path)).save(path)
    assert load_pair(base(), path, trained_in=SYSTEM).training_context == SYSTEM
    with pytest.raises(ValueError, match=r"trained_in=.*'Be brief.*'owl'.*'You are calm"):
        load_pair(base(), path, trained_in=Context("Be brief."))
    with pytest.raises(ValueError, match=r"trained_on: student='owl' has a manifest"):
        load_pair(base(), path, trained_in=SYSTEM, trained_on=["1, 2"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained_in": "You are calm."}, r"trained_in='You are calm\.'.*Context\(system="),
        (
            {"trained_in": SYSTEM, "trained_on": "1, 2"},
            r"trained_on='1, 2'\): pass a list of texts",
        ),
        ({"trained_in": SYSTEM, "trained_on": []}, r"trained_on=\[\]: pass a list"),
        (
            {"trained_on": ["1, 2"]},
            r"without trained_in.*trained_in=Context\(system.*RAW.*Context\(\)",
        ),
    ],
)
def test_what_training_cannot_be_is_told_before_anything_is_read(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        load_pair("no such base", "no such student", **given)


def test_training_prompts_that_cannot_be_rendered_are_told_as_such(smol_tokenizer):
    with pytest.raises(ValueError, match=r"^trained_on\[\d\]: .* is blank"):
        load_pair(
            model(),
            student("llama", "lora"),
            tokenizer=smol_tokenizer,
            trained_in=SYSTEM,
            trained_on=["1, 2", ""],
        )


def test_loaded_students_pass_through():
    loaded = load_student(base(), student("llama", "lora"))
    other = load_student(base(), tiny.lora(model(), seed=5), name="other")
    pair = load_pair(base(), loaded, controls=[other])
    assert pair.student is loaded
    assert list(pair.students) == ["student", "control: other"]


def test_a_live_base_needs_its_tokenizer():
    with pytest.raises(ValueError, match=r"needs tokenizer="):
        load_pair(model(), student("llama", "lora"))


def test_an_unrelated_student_or_control_is_refused_unless_allowed():
    with pytest.raises(ValueError, match="do not share a lineage"):
        load_pair(base(), model(seed=1))
    with pytest.raises(ValueError, match="do not share a lineage"):
        load_pair(base(), student("llama", "lora"), controls=[model(seed=1)])
    pair = load_pair(base(), model(seed=1), allow_unrelated=True)
    assert distance(gated_logits(pair, pair.student), own_logits(model(seed=1))) < 1e-5


def test_two_controls_of_one_name(tmp_path):
    paths = [saved(tiny.lora(model(), seed=s), tmp_path / str(s) / "penguin") for s in (2, 3)]
    message = (
        r"controls have the same name twice: \['penguin', 'penguin'\]; load them with load_student"
    )
    with pytest.raises(ValueError, match=message):
        load_pair(base(), student("llama", "lora"), controls=paths)
    named = [load_student(base(), p, name=f"penguin {n}") for n, p in enumerate(paths)]
    pair = load_pair(base(), student("llama", "lora"), controls=named)
    assert list(pair.students) == ["student", "control: penguin 0", "control: penguin 1"]


def test_what_loading_refuses():
    twin = load_student(base(), student("llama", "lora"), name="twin")
    with pytest.raises(ValueError, match="controls hold the student itself"):
        load_pair(base(), student("llama", "lora"), controls=[twin])
    with pytest.raises(ValueError, match="memory_gb=-1"):
        load_pair(base(), student("llama", "lora"), memory_gb=-1)
    with pytest.raises(ValueError, match="compute="):
        load_pair(base(), student("llama", "lora"), compute=torch.int8)


@pytest.fixture(scope="module")
def both(smol_tokenizer):
    """A pair with a control, and the models they were made from."""
    base = tiny.model("llama")
    student, other = tiny.lora(base), tiny.full(base)
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, other, name="cat")
    return sm.load_pair(loaded, student, controls=[control]), base, student, other


# ------------------------------------------------------------------------------ logits, activations


def test_without_a_mask_the_student_computes_everywhere(pair, prompts):
    models = {"student": pair.student.model, "base": pair.model}
    for name, own in models.items():
        logits = pair.logits(prompts, model=name)
        for prompt, ours in zip(prompts, logits, strict=True):
            expected = plain_logits(own, prompt.ids)
            torch.testing.assert_close(ours[: len(prompt)], expected, atol=1e-5, rtol=0)
            assert ours[len(prompt) :].isnan().all()
    everywhere = pair.logits(prompts, EVERYWHERE)
    torch.testing.assert_close(everywhere, pair.logits(prompts), atol=0, rtol=0, equal_nan=True)
    nowhere, base = pair.logits(prompts, ~EVERYWHERE), pair.logits(prompts, model="base")
    torch.testing.assert_close(nowhere, base, atol=0, rtol=0, equal_nan=True)


def test_the_base_has_no_cells_for_a_mask(llama, prompts):
    asked = {"where": masks.role("system"), "model": "base"}
    for read in (llama.logits, functools.partial(llama.activations, sites="resid_post")):
        with pytest.raises(ValueError, match=r"where: the base has no cells .* one of 'student'"):
            read(prompts, **asked)


def test_under_a_mask_the_last_logits_are_what_graft_reads(pair, prompts):
    """One-token forms: the graft of a set is read off the last token's logits under that mask."""
    chosen = masks.role("user", "template") & (masks.modules("mlp", "norms") | masks.layers(1))
    scores = sm.graft(pair, prompts, CAT, {"chosen": chosen}, **QUIET)
    effect = scores.data["effect"].sel(measure="sufficiency").values[0, :, 0]
    grafted = scores.data["base"].values[0] + effect
    logits = pair.logits(prompts, chosen)
    metric = log_prob(CAT)
    for row, prompt in enumerate(prompts):
        trie = metric.answers(pair.tokenizer, prompt)
        last = logits[row, len(prompt) - 1].reshape(1, 1, -1)
        assert float(metric.read(last, [trie])) == pytest.approx(grafted[row], abs=1e-5)
    assert np.abs(effect).max() > 1e-4


def test_a_mask_of_modules_is_a_student_with_only_those(smol_tokenizer, prompts):
    """Logits at every token and activations, against PEFT's own model with all other B at zero."""
    base = tiny.model("qwen2")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    only = copy.deepcopy(student)
    for name, parameter in only.named_parameters():
        late = any(f"layers.{layer}." in name for layer in (1, 2))
        if "lora_B" in name and not ("self_attn" in name and late):
            parameter.data.zero_()
    chosen = masks.modules("attention") & masks.layers([1, 2])
    logits = pair.logits(prompts, chosen)
    streams = pair.activations(prompts, ["resid_pre"], where=chosen)
    for row, prompt in enumerate(prompts):
        length = len(prompt)
        with torch.no_grad():
            plain = only(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True)
        torch.testing.assert_close(logits[row, :length], plain.logits[0], atol=1e-5, rtol=0)
        for layer in range(tiny.LAYERS):
            ours = streams[f"blocks.{layer}.hook_resid_pre"][row, :length]
            torch.testing.assert_close(ours, plain.hidden_states[layer][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_mask_of_tokens_gates_the_unembedding_at_those(architecture, smol_tokenizer, prompts):
    """Of a student that differs in the unembedding alone; elsewhere logits are the base's."""
    base = tiny.model(architecture)
    student = copy.deepcopy(base)
    weight = student.get_output_embeddings().weight.detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    student.get_output_embeddings().weight = torch.nn.Parameter(weight + 0.01 * noise)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    chosen = [2, 9, len(prompts[0]) - 1]
    logits = pair.logits(prompts, masks.positions(*chosen))
    for row, prompt in enumerate(prompts):
        models = {True: plain_logits(student, prompt.ids), False: plain_logits(base, prompt.ids)}
        expected = torch.stack([models[t in chosen][t] for t in range(len(prompt))])
        torch.testing.assert_close(logits[row, : len(prompt)], expected, atol=1e-5, rtol=0)
        assert (models[True] - models[False]).abs().max() > 1e-2


def test_activations_before_the_first_open_token_are_the_bases(llama, prompts):
    late = masks.positions(*range(20, 33))
    ours = llama.activations(prompts, ["resid_post"], where=late)
    base = llama.activations(prompts, ["resid_post"], model="base")
    for name, stream in ours.items():
        torch.testing.assert_close(stream[:, :20], base[name][:, :20], atol=0, rtol=0)
        assert not torch.allclose(stream[:, 20:33], base[name][:, 20:33])


def test_a_control_is_asked_by_its_name(both, prompts):
    pair, _, _, other = both
    logits = pair.logits(prompts[:1], model="control: cat")[0]
    torch.testing.assert_close(logits, plain_logits(other, prompts[0].ids), atol=1e-5, rtol=0)
    message = "model='owl' is no student of this pair. Choose one of 'student', 'control: cat', "
    with pytest.raises(ValueError, match=message):
        pair.logits(prompts, model="owl")
    with pytest.raises(ValueError, match="model='owl' is no student"):
        pair.activations(prompts, ["z"], model="owl")


# -------------------------------------------------------------------------------------------- names


def test_names_of_students_and_what_they_are(both):
    pair, base, _, _ = both
    assert list(pair.students) == ["student", "control: cat"]
    assert pair.named_student("student") is pair.student
    assert pair.named_student("cat") is pair.named_student("control: cat") is pair.controls[0]
    assert pair.key_of("cat") == pair.key_of("control: cat") == "control: cat"
    assert pair.key_of(pair.student.name) == "student"
    with pytest.raises(
        ValueError, match=r"model='catt' is no student .*; did you mean 'cat'\? Cho"
    ):
        pair.key_of("catt")
    twice = replace(pair, student=replace(pair.student, name="cat"))
    message = "model='cat' names several students of this pair. Choose one of 'student', 'control"
    with pytest.raises(ValueError, match=message):
        twice.named_student("cat")
    called = replace(pair, controls=(replace(pair.controls[0], name="student"),))
    assert called.key_of("student") == "student", "the pair's own names come first"
    assert pair.delta is pair.student.deltas
    assert pair.base.hash == pair.hash
    assert pair.base.model is pair.model
    assert pair.model is not base  # the caller's object stays as it is
    assert pair.training_prompts is None
    assert pair.training_context is None
    assert "controls: cat" in repr(pair)
    assert "controls: none" in repr(sm.load_pair(pair.base, pair.student))


def test_gates_of_a_mask_are_in_the_order_of_the_students_modules(both, prompts):
    pair = both[0]
    mask = masks.role("user") & masks.modules("mlp.out")
    gates = pair.prompt_gates(prompts[0], mask, pair.student)
    assert gates.shape == (len(prompts[0]), len(pair.delta))
    for token, role in enumerate(prompts[0].roles):
        for column, path in enumerate(pair.delta):
            expected = role == "user" and pair.sites.modules[path].name == "mlp.out"
            assert bool(gates[token, column]) == expected
