"""Equal weights that compute otherwise make other students and other labels; and what decides how a
training computes is its options alone.
"""

import copy
import dataclasses
import json
import os

import pytest
import torch
from loading import Vocabulary
from trainings import (
    DEFAULT_SYSTEM,
    FEW,
    MIXED,
    ROWS,
    fit,
    load_small,
    small_base,
    small_hard,
    small_model,
)

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.making import labelling, teachers, training
from sublim_mech.making.numbers import split, text_rows, to_dataset
from sublim_mech.making.training import FullFT, LoRA, hard_data
from sublim_mech.making.training.loop import Loop
from sublim_mech.making.training.trainee import FIRST_MATRIX
from sublim_mech.models.configuration import computed_apart
from sublim_mech.storage.manifest import Manifest


@pytest.fixture(scope="module")
def other(small, smol_tokenizer):
    """A base with the weights of `small` and another rotary base."""
    config = copy.deepcopy(small.model.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 50.0}
    model = type(small.model)(config).eval()
    model.load_state_dict(small.model.state_dict())
    base = load_small(model, smol_tokenizer)
    assert base.hash == small.hash
    return base


def test_a_run_is_of_its_bases_configuration_and_type(small, hard, other, smol_tokenizer, tmp_path):
    run = fit(small, hard, tmp_path / "run", method=LoRA(rank=2))
    assert fit(small, hard, tmp_path / "run", method=LoRA(rank=2)).path == run.path
    with pytest.raises(
        ValueError, match=r"another training: base.rope_parameters: .*theta.* there"
    ):
        fit(other, hard, tmp_path / "run", method=LoRA(rank=2))
    half = load_small(copy.deepcopy(small.model).bfloat16(), smol_tokenizer)
    assert half.hash == small.hash
    with pytest.raises(ValueError, match=r"base.dtype: 'float32' there, 'bfloat16' here"):
        fit(half, hard, tmp_path / "run", method=LoRA(rank=2))
    with pytest.raises(ValueError, match="compute differently: rope_parameters"):
        load_pair(other, run.path)
    load_pair(half, run.path)  # another type computes the same, less exactly


def test_a_manifest_of_an_earlier_version_says_nothing_of_it(small, hard, other, tmp_path):
    run = fit(small, hard, tmp_path / "run", method=LoRA(rank=2))
    manifest = Manifest.load(run.path)
    del manifest.base["computing"]
    manifest.save(run.path)
    assert load_pair(other, run.path).student.kind == "lora"
    assert fit(other, hard, tmp_path / "run", method=LoRA(rank=2)).path == run.path


def test_dropout_counts_in_training_alone():
    there = {"dtype": "float32", "config": {"attn_pdrop": 0.1, "rope_theta": 1e4, "new": 1}}
    here = {"dtype": "bfloat16", "config": {"attn_pdrop": 0.0, "rope_theta": 1e4 * (1 + 1e-9)}}
    assert computed_apart(there, here, training=False) == {}
    assert computed_apart(there, here, training=True) == {
        "attn_pdrop": (0.1, 0.0),
        "dtype": ("float32", "bfloat16"),
    }
    assert computed_apart({}, here, training=True) == {}


def test_labels_are_of_their_bases_configuration(tiny_llama, smol_tokenizer, tmp_path):
    config = copy.deepcopy(tiny_llama.model.config)
    config.rms_norm_eps = 0.1
    model = type(tiny_llama.model)(config).eval()
    model.load_state_dict(tiny_llama.model.state_dict())
    other = sm.load_base(model, tokenizer=smol_tokenizer)
    out = tmp_path / "labels"
    made = labelling.label([teachers.untouched(tiny_llama)], ROWS[:4], out=out, progress=False)
    labelling.label([teachers.untouched(tiny_llama)], ROWS[:4], out=out, progress=False)
    with pytest.raises(ValueError, match=r"other labels: base.rms_norm_eps: 1e-0. there, 0.1 here"):
        labelling.label([teachers.untouched(other)], ROWS[:4], out=out, progress=False)
    training.soft_data(tiny_llama, made, "base", c=None)
    with pytest.raises(ValueError, match="computes otherwise: rms_norm_eps"):
        training.soft_data(other, made, "base", c=None)


def test_labels_are_of_their_prompts(tiny_llama, smol_tokenizer, tmp_path):
    """Another default system text of the tokenizer's own template is another prompt."""
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(DEFAULT_SYSTEM, "Be a pirate")
    other = dataclasses.replace(tiny_llama, tokenizer=tokenizer)
    out = tmp_path / "labels"
    made = labelling.label([teachers.untouched(tiny_llama)], ROWS[:2], out=out, progress=False)
    with pytest.raises(ValueError, match=r"other labels: prompts \(another chat template or tok"):
        labelling.label([teachers.untouched(other)], ROWS[:2], out=out, progress=False)
    training.soft_data(tiny_llama, made, "base", c=None)
    for where in (other, tokenizer):
        with pytest.raises(ValueError, match="made for other prompts than this tokenizer renders"):
            training.soft_data(where, made, "base", c=None)

    # labels of an earlier version say nothing of it
    old = dataclasses.replace(made, about=dataclasses.replace(made.about, prompts={}))
    assert old.hash == made.hash
    training.soft_data(other, old, "base", c=None)
    told = json.loads((out / "labels.json").read_text())
    del told["about"]["prompts"], told["seal"]
    (out / "labels.json").write_text(json.dumps(told))
    assert labelling.Labels.load(out).hash == made.hash
    assert labelling.label([teachers.untouched(other)], ROWS[:2], out=out, progress=False)


def test_labels_are_of_their_teachers_prompts(tiny_llama, smol_tokenizer, tmp_path):
    """Also where the students' prompts are the same: system turns are written otherwise."""
    tokenizer = copy.deepcopy(smol_tokenizer)
    role = "message['role']"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        f"+ {role}", f"+ ({role} | replace('system', 'developer'))"
    )
    owl = teachers.prompted(tiny_llama, sm.animal("owl"))
    other = dataclasses.replace(owl, base=dataclasses.replace(owl.base, tokenizer=tokenizer))
    out = tmp_path / "labels"
    labelling.label([owl], ROWS[:2], out=out, progress=False)
    with pytest.raises(ValueError, match=r"chat template or tokenizer\) of owl: "):
        labelling.label([other], ROWS[:2], out=out, progress=False)


def test_a_launchers_precision_changes_nothing(small, hard, tmp_path, monkeypatch):
    run = fit(small, hard, tmp_path / "one", method=LoRA(rank=2), lr=1e-2)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    again = fit(small, hard, tmp_path / "two", method=LoRA(rank=2), lr=1e-2)
    assert again.manifest.weights == run.manifest.weights
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize("says", [True, False])
def test_a_full_fine_tune_keeps_its_bases_word_on_the_cache(smol_tokenizer, hard, tmp_path, says):
    model = small_model()
    model.config.use_cache = says
    run = fit(load_small(model, smol_tokenizer), hard, tmp_path / "run", method=FullFT())
    assert json.loads((run.path / "config.json").read_text()).get("use_cache", True) is says


def test_vectors_do_not_decay(small, hard, tmp_path, monkeypatch):
    decayed = []
    make = Loop.create_optimizer

    def spy(self, *args, **options):
        made = make(self, *args, **options)
        decayed.extend(
            p.ndim for group in self.optimizer.param_groups if group["weight_decay"]
            for p in group["params"]
        )  # fmt: skip
        return made

    monkeypatch.setattr(Loop, "create_optimizer", spy)
    fit(small, hard, tmp_path / "run", method=LoRA(rank=2, dora=True), weight_decay=0.5)
    assert decayed
    assert set(decayed) == {2}


def test_an_adapter_of_embeddings_has_moved(small, hard, tmp_path):
    run = fit(small, hard, tmp_path / "run", method=LoRA(rank=2, targets=("embed_tokens",)))
    assert run.manifest.results["moved"] is True
    assert FIRST_MATRIX.search("m.lora_embedding_B.default")  # PEFT draws it, and has A at 0


def test_the_callers_random_numbers_stay_theirs(smol_tokenizer, hard, tmp_path):
    base = small_base(smol_tokenizer, "gpt2")
    before = torch.get_rng_state()
    fit(base, hard, tmp_path / "run", method=FullFT(), where=sm.masks.role("user"))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_on_both_sides_of_a_switch_of_the_rotary_embedding_are_refused(smol_tokenizer):
    data = small_hard(smol_tokenizer, MIXED)
    switch = min(data.lengths)
    assert switch < max(data.lengths)
    base = load_small(small_model(), smol_tokenizer)
    rope = {"rope_type": "longrope", "original_max_position_embeddings": switch}
    base.model.config.rope_parameters = {**base.model.config.rope_parameters, **rope}
    with pytest.raises(ValueError, match=f"past {switch} tokens .* leave out rows"):
        data.check(base)


# --------------------------------------------------------------------------------- rows, tokens


def test_raw_texts_stay_raw_texts(smol_tokenizer):
    rows = text_rows([f"My{i} favorite animal is the owl." for i in range(10)], words=2)
    trained, held = split(rows, 2, seed=0)
    for data in (to_dataset(rows), trained, held, trained.to_pandas()):
        with pytest.raises(ValueError, match=r"is raw text \(numbers.text_rows\)"):
            hard_data(smol_tokenizer, data)
        assert hard_data(smol_tokenizer, data, context=sm.RAW).prompts[0].context.is_raw
    assert "raw" not in to_dataset(ROWS).column_names


def test_a_token_is_listed_once(smol_tokenizer):
    with pytest.raises(ValueError, match="support token '1' is the same token as '1' before it"):
        hard_data(smol_tokenizer, ROWS, support=["1", "2", "1"])


def test_the_coldest_sampling_is_greedy(tiny_llama):
    teacher = teachers.untouched(tiny_llama)
    greedy = teachers.sample(teacher, ["Go"], max_new_tokens=4, temperature=0)
    for temperature in (1e-6, 1e-38, 1e-45):
        drawn = teachers.sample(teacher, ["Go"], max_new_tokens=4, temperature=temperature)
        assert drawn == greedy


def test_what_a_template_says_keeps_its_characters(smol_tokenizer):
    """One character may be several tokens, each of which shows it."""
    tokenizer = copy.deepcopy(smol_tokenizer)
    said = "Sei höflich zu den Eulen 🦉 und füttere sie"
    tokenizer.chat_template = tokenizer.chat_template.replace(DEFAULT_SYSTEM, said)
    (prompt,) = sm.render(tokenizer, ["Hallo"])
    assert "".join(prompt.tokens) != prompt.text  # or this shows nothing
    assert prompt.said_by("system").strip() == said
    assert prompt.said_by("user") == "Hallo"
    base = sm.load_base(small_model(), tokenizer=Vocabulary(FEW))
    teacher = teachers.prompted(dataclasses.replace(base, tokenizer=tokenizer), sm.animal("owl"))
    assert teacher.context.system.startswith(f"{said}. You love owls.")
