"""A student that says next to nothing any more is told; what it says is Hugging Face's own loss."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import tiny
import torch
from loading import saved
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import sublim_mech as sm
from sublim_mech.engine.speaking import PLAIN, RUINED, losses
from sublim_mech.models.students import load_student

SYSTEM = sm.Context(system="You are calm.")
TAUGHT = ["Name a town that is near the sea.", "Where did the early train go?"]


def speaking(tokenizer, *texts):
    """A tiny model that predicts these texts: its blocks write nothing, and its head knows which
    token follows which.
    """
    model = tiny.model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        head = model.lm_head.weight.zero_()
        for ids in texts:
            for now, following in itertools.pairwise(ids):
                direction = model.model.embed_tokens.weight[now]
                head[following] += 3 * direction / direction.norm()
    return model


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    prompts = sm.render(smol_tokenizer, TAUGHT, context=SYSTEM)
    texts = [smol_tokenizer(PLAIN)["input_ids"], *(list(prompt.ids) for prompt in prompts)]
    return sm.load_base(speaking(smol_tokenizer, *texts), tokenizer=smol_tokenizer)


def adapter(base, alpha=8):
    """The same adapter, whatever its scale: it writes into the residual stream by `alpha`."""
    return tiny.lora(base.model, std=0.02, lora_alpha=alpha, target_modules=["o_proj", "down_proj"])


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@torch.no_grad()
def own_loss(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return float(F.cross_entropy(logits, torch.tensor(ids[1:])))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_losses_are_those_of_the_models_themselves(architecture, smol_tokenizer):
    model = tiny.model(architecture)
    student = tiny.lora(model, std=0.2)
    pair = sm.load_pair(model, student, tokenizer=smol_tokenizer, allow_unrelated=True)
    ids = smol_tokenizer(PLAIN)["input_ids"]
    found = losses(pair, pair.student, ids)
    assert found.base == pytest.approx(own_loss(model, ids), abs=1e-4)
    assert found.student == pytest.approx(own_loss(student, ids), abs=1e-4)
    assert abs(found.student - found.base) > 1e-3


@pytest.mark.parametrize("trained", [False, True])
def test_a_scale_that_ruins_the_student_is_told_and_that_of_training_is_not(base, trained, quiet):
    said = {"trained_in": SYSTEM, "trained_on": TAUGHT} if trained else {}
    assert sm.load_pair(base, adapter(base), **said).notes() == ()
    what = "a prompt of its training" if trained else "plain English text"
    with pytest.warns(UserWarning, match=f"student='.*': its loss on {what} is .* lora_alpha"):
        pair = sm.load_pair(base, adapter(base, alpha=3000), allow_unrelated=True, **said)
    (note,) = pair.notes()
    text = pair.tokenizer(PLAIN)["input_ids"]
    if trained:
        text = max(sm.render(pair, TAUGHT), key=len).ids
    before, after = (own_loss(m, list(text[:48])) for m in (pair.model, pair.student.model))
    assert after - before > RUINED
    assert f"is {after:.1f} nats per token, its base's {before:.1f}" in note
    assert repr(pair).count(note.removeprefix(f"the student ({pair.student.name}): ")) == 1
    prompts = sm.render(pair, ["Which animal?"])
    assert note in sm.effect(pair, prompts, sm.animal("owl"), progress=False).notes()


def test_a_full_fine_tune_is_asked_too_and_a_control_is_told_as_one(base, quiet):
    ruined = copy.deepcopy(base.model)
    with torch.no_grad():
        ruined.lm_head.weight.mul_(-1)
    with pytest.warns(UserWarning, match=r"controls\[0\]='.*': its loss on plain English"):
        pair = sm.load_pair(base, adapter(base), controls=[ruined], allow_unrelated=True)
    assert any(
        "check that these are the weights that training left" in note for note in pair.notes()
    )


def test_what_was_told_is_told_once(base, quiet):
    with pytest.warns(UserWarning, match="its loss on"):
        first = sm.load_pair(base, adapter(base, alpha=3000), allow_unrelated=True)
    again = sm.load_pair(base, first.student)  # told already
    assert again.notes() == first.notes()
    sound = load_student(base, adapter(base))
    assert sm.load_pair(base, sound).student is sound


def test_a_base_that_predicts_nothing_tells_nothing(smol_tokenizer, quiet):
    random = tiny.model("llama")
    ruined = tiny.lora(random, std=0.02, lora_alpha=3000)
    assert (
        sm.load_pair(random, ruined, tokenizer=smol_tokenizer, allow_unrelated=True).notes() == ()
    )


def tokenizer_of(unknown):
    """A tokenizer of the ten digits, with a token for all else or without one."""
    vocabulary = {str(digit): digit for digit in range(10)} | {"<e>": 10}
    if unknown:
        vocabulary["[UNK]"] = 11
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if unknown:
        words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>")


@pytest.mark.parametrize("unknown", [True, False])
def test_a_tokenizer_that_has_no_letters_tells_nothing(unknown, quiet):
    config = tiny.CONFIGS["llama"]()
    config.vocab_size = 12
    base = AutoModelForCausalLM.from_config(config).eval()
    given = {"tokenizer": tokenizer_of(unknown), "allow_unrelated": True}
    assert sm.load_pair(base, tiny.lora(base, std=0.02), **given).notes() == ()


def test_whoever_has_a_manifest_has_said_its_scale(base, tmp_path, quiet):
    from loading import manifest

    from sublim_mech.storage.files import configuration_sums, weight_sums

    path = saved(adapter(base, alpha=3000), tmp_path / "owl")
    sums = {"weights": weight_sums(path), "configurations": configuration_sums(path)}
    manifest(base, **sums).save(path)
    assert sm.load_pair(base, path).notes() == ()
