"""`extract_lora`: the best adapter of a rank, what it leaves out, and that others can load it."""

import copy
import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from changed import dense, full_of, planted
from pairs import TRAIT
from peft import PeftModel

import sublim_mech as sm
from sublim_mech.engine.alike import pair_notes, peer_notes
from sublim_mech.models import plausible
from sublim_mech.models.spectra import change_of
from sublim_mech.models.students import load_student
from sublim_mech.results.record import OWN_CHANGE, UNTOLD

QUIET = {"progress": False}


def load(base, student, tokenizer):
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


def extract(pair, rank, out, **options):
    return sm.instruments.extract_lora(pair, rank, out=out, **QUIET, **options)


def is_linear(name):
    return name.endswith("_proj.weight")


@pytest.fixture(scope="module")
def linear(smol_tokenizer):
    """A full fine-tune of the linear modules alone."""
    base = tiny.model("llama")
    base.get_output_embeddings().weight.data *= 8  # so that effects are far above rounding
    return load(base, full_of(base, is_linear, scale=0.2), smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, TRAIT.questions[:3])


def log_probs(pair, prompts, model="student"):
    return pair.logits(prompts, model=model).log_softmax(-1).nan_to_num()


def test_at_full_rank_it_is_the_student(linear, prompts, tmp_path):
    state = torch.get_rng_state()
    made = extract(linear, 32, tmp_path / "whole", prompts=prompts, trait=TRAIT)
    assert torch.equal(torch.get_rng_state(), state)
    again = sm.load_pair(linear.base, made.path, allow_unrelated=True)
    difference = log_probs(again, prompts) - log_probs(linear, prompts)
    moved = log_probs(linear, prompts) - log_probs(linear, prompts, "base")
    assert float(difference.abs().max()) < 1e-4 < 0.1 < float(moved.abs().max())
    assert made.share == pytest.approx(1)
    # keys and values have 16 rows, so no more than rank 16
    assert made.table().loc["blocks.0.attn.k", "rank"] == 16
    share = made.kept["KL to the base"]
    for number in (share.mean, share.low, share.high):
        assert float(number) == pytest.approx(1, abs=1e-3)
    assert list(made.kept) == ["effect on log P(owl)", "KL to the base"]
    assert made.left_out == ()


def test_its_size_is_no_slip_unless_somebody_changed_its_scale(linear, tmp_path, monkeypatch):
    """A full fine-tune may change more than adapters do, and so do factors of that change."""
    monkeypatch.setattr(plausible, "LARGEST_CHANGE", 0.1)
    made = extract(linear, 4, tmp_path / "small")
    said = "check that lora_alpha, r and use_rslora"
    student = load_student(linear.base, made.path, allow_unrelated=True)
    assert not [note for note in student.notes if said in note]
    file = made.path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"lora_alpha": 40}))
    with pytest.warns(UserWarning, match=said):
        student = load_student(linear.base, made.path, allow_unrelated=True)
    assert [note for note in student.notes if said in note]


def test_what_is_left_out_of_a_weight_is_the_tail_of_its_singular_values(linear, tmp_path):
    """Eckart and Young: no change of this rank is nearer."""
    made = extract(linear, 3, tmp_path / "three")
    small = sm.models.load_student(linear.base, made.path, allow_unrelated=True)
    for one in made.modules:
        module = linear.model.get_submodule(one.path)
        whole = dense(linear.model, linear.student.model, one.path)
        tail = np.linalg.norm(np.linalg.svd(whole, compute_uv=False)[3:])
        assert one.error == pytest.approx(tail, rel=1e-9)
        # and so is the error of the weights that were written
        written = change_of(small.deltas[one.path], module).numpy()
        assert np.linalg.norm(whole - written) == pytest.approx(tail, rel=1e-5)
    table = made.table()
    np.testing.assert_allclose(table["share"], 1 - (table["error"] / table["norm"]) ** 2)
    assert made.share == pytest.approx(1 - (table["error"] ** 2).sum() / (table["norm"] ** 2).sum())


def test_randomised_factors_tell_their_own_error(linear, tmp_path):
    exact = extract(linear, 3, tmp_path / "exact")
    rough = extract(linear, 3, tmp_path / "rough", exact=3)
    for one, other in zip(rough.modules, exact.modules, strict=True):
        assert other.error * (1 - 1e-9) <= one.error < 1.2 * other.error


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_loads_it_and_computes_the_same(architecture, smol_tokenizer, prompts, tmp_path):
    base = tiny.model(architecture)
    with torch.no_grad():  # biases begin as zeros, of which no fraction moves
        for p in base.parameters():
            if p.dim() == 1:
                p += 0.1 * torch.randn(p.shape, generator=torch.manual_seed(len(p)))
    pair = load(base, tiny.full(base), smol_tokenizer)
    made = extract(pair, 4, tmp_path / "four")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), made.path).eval()
    again = sm.load_pair(pair.base, made.path)
    ids = torch.tensor([prompts[0].ids])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits[0]
    torch.testing.assert_close(again.logits(prompts[:1])[0], expected, atol=1e-5, rtol=0)
    assert again.student.kind == "lora"
    told = json.loads((made.path / "extraction.json").read_text())
    assert told["hash"] == pair.student.hash
    # what it leaves out altogether is named, with its norm
    new, old = dict(pair.student.model.named_parameters()), dict(base.named_parameters())
    whole = sum(float((new[key] - old[key]).detach().double().square().sum()) for key in old)
    parts = [one.norm for one in made.modules] + [left.norm for left in made.left_out]
    assert np.linalg.norm(parts) == pytest.approx(whole**0.5, rel=1e-5)
    why = {left.name: left.why for left in made.left_out}
    assert why["embed"] == "an embedding"
    if architecture == "gpt2":
        assert why["unembed"].startswith("tied to embed")
        assert why["blocks.0.attn.qkv.bias"] == "a bias"
        assert why["blocks.2.ln1"] == "a vector"
    else:
        assert why["unembed"] == "the unembedding"
        assert why["ln_final"] == "a vector"
    assert "left out" in repr(made)


def test_of_a_larger_adapter_it_keeps_the_strongest_direction(smol_tokenizer, tmp_path):
    """A planted rank: the first direction of a change of rank one is all of it."""
    base = tiny.model("llama")
    student = tiny.lora(base, rank_pattern={"mlp.down_proj": 2}, alpha_pattern={"down_proj": 2})
    pair = load(base, student, smol_tokenizer)
    made = extract(pair, 4, tmp_path / "four")
    assert made.table().loc["blocks.1.mlp.out", "rank"] == 2
    for path, delta in pair.delta.items():
        small = sm.models.load_student(pair.base, made.path).deltas[path]
        torch.testing.assert_close(
            change_of(small, pair.model.get_submodule(path)),
            change_of(delta, pair.model.get_submodule(path)),
            atol=1e-6,
            rtol=0,
        )
    with pytest.raises(ValueError, match=r"more than 4 singular values.*pass rank=4"):
        extract(pair, 5, tmp_path / "five")
    assert not (tmp_path / "five").exists()


def test_targets_choose_and_others_are_left_out(linear, tmp_path):
    made = extract(linear, 2, tmp_path / "some", targets=["down_proj", "q_proj"])
    assert {one.module for one in made.modules} == {"mlp.out", "attn.q"}
    assert {left.why for left in made.left_out} == {"no target"}
    assert len(made.left_out) == 15
    assert 0 < made.share < 1
    regular = extract(linear, 2, tmp_path / "same", targets=r".*\.1\..*down_proj")
    assert [one.name for one in regular.modules] == ["blocks.1.mlp.out"]


def test_a_trait_in_the_first_direction_is_kept_with_it(smol_tokenizer, prompts, tmp_path):
    """All of the effect of a student of one direction; of two directions, the larger one's."""
    base = tiny.model("llama")
    base.get_output_embeddings().weight.data *= 8
    student, _, _ = planted(base, "model.layers.1.mlp.down_proj", [1.5])
    one = load(base, student, smol_tokenizer)
    made = extract(one, 1, tmp_path / "one", prompts=prompts, trait=TRAIT)
    assert [float(share.mean) for share in made.kept.values()] == pytest.approx([1, 1], abs=1e-3)
    assert "keeps of the effect on log P(owl): 100.0% [" in repr(made)
    assert made.prompts == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_waits_for_tokens_still_does(smol_tokenizer, prompts, tmp_path):
    base = tiny.model("llama")
    waits = list(prompts[0].ids[-3:])
    student = tiny.lora(base, alora_invocation_tokens=waits)
    pair = load(base, student, smol_tokenizer)
    made = extract(pair, 4, tmp_path / "four")
    again = sm.load_pair(pair.base, made.path)
    difference = again.logits(prompts) - pair.logits(prompts)
    assert float(difference.nan_to_num().abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 33}, "more than 32 singular values"),
        ({"targets": ["up"]}, "no module is called 'up'"),
        ({"targets": ["embed_tokens"]}, "is an embedding"),
        ({"targets": ["lm_head"]}, "changes no matrix there"),
        ({"trait": TRAIT}, "without prompts"),
        ({"model": "owl"}, "no student"),
    ],
)
def test_wrong_options_leave_nothing_behind(options, said, linear, tmp_path):
    with pytest.raises(ValueError, match=said):
        extract(linear, **{"rank": 2, "out": tmp_path / "x", **options})
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(linear, tmp_path):
    (tmp_path / "mine").write_text("text")
    with pytest.raises(FileExistsError, match="choose another folder"):
        extract(linear, 2, tmp_path)
    with pytest.raises(FileExistsError):
        extract(linear, 2, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "text"


def test_what_limits_the_comparison_on_prompts_is_told(linear, prompts, tmp_path):
    """In the words of scores: the context, few prompts, and a metric that cannot rise further."""
    one = extract(linear, 1, tmp_path / "one", prompts=prompts[:1], trait=TRAIT)
    assert "training context not given" in one.limits[0]
    assert "one prompt: no intervals" in one.limits
    for line in one.limits:
        assert line in repr(one)
    assert not any("ceiling" in line for line in one.limits)
    trained = sm.load_pair(
        linear.base, linear.student, trained_in=sm.Context("You are a sailor."),
        allow_unrelated=True,
    )  # fmt: skip
    apart = extract(trained, 1, tmp_path / "apart", prompts=prompts)
    assert apart.limits[0].startswith("asked otherwise than trained: system")


class Ceiling(sm.metrics.Metric):
    """A log-probability that is 0 wherever the student is."""

    name, unit, needs_base = "log P(x)", "nats", True

    def answers(self, tokenizer, prompt):
        return sm.metrics.as_metric(TRAIT).answers(tokenizer, prompt)

    def read(self, logits, answers, base):
        return -5.0 * ((logits - base).abs().amax((1, 2)) < 1e-3).float()


def test_a_student_at_the_ceiling_is_told(linear, prompts, tmp_path):
    found = extract(linear, 1, tmp_path / "full", prompts=prompts, trait=Ceiling())
    (told,) = [line for line in found.limits if "ceiling" in line]
    assert told.startswith("student: log P(x) is at its ceiling of 0")


# ------------------------------------------------------------------------------ beside its source


@pytest.fixture(scope="module")
def cut(linear, tmp_path_factory):
    """Adapters cut from one student, the last one from another such adapter."""
    folder = tmp_path_factory.mktemp("cut")
    for rank in (2, 1):
        extract(linear, rank, folder / f"r{rank}")
    second = load(linear.base, folder / "r2", None)
    return [
        folder / "r2",
        folder / "r1",
        extract(second, 1, folder / "r2r1", targets=["up_proj"]).path,
    ]


def own_changes(pair):
    told = [note for note in pair.notes() if OWN_CHANGE in note]
    assert all(note.endswith(", so that their difference says nothing of a trait") for note in told)
    assert not [note for note in pair.notes() if "not trained alike" in note or UNTOLD in note]
    return [
        note.removesuffix(", so that their difference says nothing of a trait") for note in told
    ]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rank": "two", "hash": "a"}'])
def test_a_damaged_file_on_what_was_extracted_is_named(text, linear, cut, tmp_path):
    folder = shutil.copytree(cut[0], tmp_path / "cut")
    (folder / "extraction.json").write_text(text)
    with pytest.raises(ValueError, match=r"student='.*cut': extraction\.json .*copy it again"):
        load_student(linear.base, folder, allow_unrelated=True)


def test_a_control_that_is_the_students_own_change_is_told(linear, cut, prompts):
    """Whichever was cut from the other, at once or over a third, or both from one."""
    source, (r2, r1, r2r1) = linear.student, cut
    change = OWN_CHANGE
    for student, control, told in (
        (source, r1, f"r1 is, at rank 1, {change} (extract_lora cut it from the student)"),
        (source, r2r1, f"r2r1 is, at rank 1, {change} (extract_lora cut it from the student)"),
        (r1, source, f"{source.name} is, uncut, {change} (extract_lora cut the student from it "
                     "at rank 1)"),
        (r2, r1, f"r1 is, at rank 1, {change} (extract_lora cut both from one student, the "
                 "student at rank 2)"),
    ):  # fmt: skip
        pair = sm.load_pair(linear.base, student, controls=[control], allow_unrelated=True)
        assert own_changes(pair) == [f"control {told}"]
    pair = sm.load_pair(linear.base, source, controls=[r1], allow_unrelated=True)
    scores = sm.attribute(pair, prompts[:2], TRAIT, points=2, **QUIET)
    assert pair.notes()[0] in repr(scores)
    short = f"ontrol r1 is, at rank 1, {OWN_CHANGE}"
    assert short in repr(sm.concentration(scores, on="user"))
    assert OWN_CHANGE not in repr(scores.sel(model="student"))
    peers = {"owl": linear.student, "r1": load_student(linear.base, r1, allow_unrelated=True)}
    notes = peer_notes(peers)
    assert "r1 is owl's own change at rank 1 (extract_lora)" in notes
    assert "training unknown (no manifest): owl" in notes


def test_an_extracted_adapter_was_not_trained(linear, cut):
    """Its rank is not that of a training, so that nothing is told of it as of one."""
    lora = tiny.lora(linear.base.model, seed=5)
    for student, control, which in ((cut[0], lora, "its controls were"), (lora, cut[0], "its")):
        pair = sm.load_pair(linear.base, student, controls=[control], allow_unrelated=True)
        notes = pair.notes()
        assert not [note for note in notes if "was not trained alike" in note]
        assert [note for note in notes if f"whether {which}" in note and note.endswith(UNTOLD)]
    by_rank = "the student's training is unknown (not trained but cut by extract_lora, at rank 2)"
    student = load_student(linear.base, cut[0], allow_unrelated=True)
    assert any(note.startswith(by_rank) for note in pair_notes(student, [pair.student]))
