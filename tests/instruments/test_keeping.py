"""Long calls keep what they have: called again they go on, and end in the same scores."""

import os

import numpy as np
import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine.runner import Runner
from sublim_mech.instruments import keeping
from sublim_mech.results.identity import code

TRAIT = sm.Trait("owl")
SETS = {"last": [-1], "all": sm.masks.everything()}


def _confirm(pair, prompts, **given):
    scores = sm.attribute(pair, prompts, TRAIT, points=2, progress=False)
    return sm.confirm(pair, prompts, TRAIT, scores, k=3, **given)


CALLS = {
    "patch": lambda pair, p, **given: sm.patch(pair, p, TRAIT, layers=[0, 1], **given),
    "sweep": lambda pair, p, **given: sm.instruments.graft_sweep(
        pair, p, TRAIT, layers=[0], **given
    ),
    "graft": lambda pair, p, **given: sm.graft(pair, p, TRAIT, SETS, **given),
    "graft_ig": lambda pair, p, **given: sm.attribute(pair, p, TRAIT, points=2, **given),
    "estimate": lambda pair, p, **given: sm.attribute(
        pair, p, TRAIT, method="attribution_patching", **given
    ),
    "gradient_x_input": lambda pair, p, **given: sm.attribute(
        pair, p, TRAIT, method="gradient_x_input", **given
    ),
}


@pytest.fixture(scope="module")
def students(smol_tokenizer):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.full(base), name="cat")
    return sm.load_pair(loaded, tiny.lora(base), controls=[control])


def arrays(scores):
    return {name: scores.data[name].values for name in ("effect", "base", "student")}


def same_bits(one, other):
    other = arrays(other)
    for name, values in arrays(one).items():
        assert values.tobytes() == other[name].tobytes(), name


class Forwards:
    """How many forwards there were."""

    def __init__(self, monkeypatch):
        self.count, run = 0, Runner.run

        def counted(runner, *args, **options):
            self.count += 1
            return run(runner, *args, **options)

        monkeypatch.setattr(Runner, "run", counted)


def stop_after(monkeypatch, units):
    """Ctrl-C while the next unit is written."""
    left, write = [units], keeping.write_arrays

    def stopped(path, *args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, *args)

    monkeypatch.setattr(keeping, "write_arrays", stopped)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_was_stopped_goes_on_and_gives_the_same_bits(
    call, students, prompts, tmp_path, monkeypatch
):
    asked = CALLS[call]
    plain = asked(students, prompts, progress=False)
    whole = asked(students, prompts, keep=tmp_path / "whole", progress=False)
    for name, values in arrays(plain).items():
        np.testing.assert_allclose(arrays(whole)[name], values, atol=2e-5)
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            asked(students, prompts, keep=tmp_path / "cut", progress=False)
    assert len(os.listdir(tmp_path / "cut")) == 2
    same_bits(asked(students, prompts, keep=tmp_path / "cut", progress=False), whole)
    assert set(os.listdir(tmp_path / "cut")) == set(os.listdir(tmp_path / "whole"))
    forwards = Forwards(monkeypatch)
    same_bits(asked(students, prompts, keep=tmp_path / "cut", progress=False), whole)
    assert forwards.count == 0


def test_exact_values_of_a_confirmation_are_kept(students, prompts, tmp_path):
    plain = _confirm(students, prompts, progress=False).confirmation
    first = _confirm(students, prompts, keep=tmp_path, progress=False).confirmation
    files = os.listdir(tmp_path)
    assert files
    again = _confirm(students, prompts, keep=tmp_path, progress=False).confirmation
    np.testing.assert_allclose(first["exact"], plain["exact"], atol=2e-5)
    assert first.equals(again)
    assert os.listdir(tmp_path) == files


def test_a_file_that_is_written_when_the_call_ends_is_not_there(
    students, prompts, tmp_path, monkeypatch
):
    def half(arrays, path, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("sublim_mech.storage.files.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        CALLS["graft"](students, prompts, keep=tmp_path, progress=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_named_and_computed_again(damage, students, prompts, tmp_path):
    asked = CALLS["graft"]
    whole = asked(students, prompts, keep=tmp_path, progress=False)
    file = sorted(tmp_path.iterdir())[0]
    data = file.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    file.write_bytes(data[:-9] if damage == "cut" else changed)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        same_bits(asked(students, prompts, keep=tmp_path, progress=False), whole)
    assert file.read_bytes() == data


def test_a_folder_holds_what_was_asked_and_nothing_else(llama, prompts, tmp_path, monkeypatch):
    def units():
        return len(os.listdir(tmp_path))

    CALLS["graft"](llama, prompts[:1], keep=tmp_path, progress=False)
    assert units() == 1
    CALLS["graft"](llama, prompts, keep=tmp_path, progress=False)  # one of two is there
    assert units() == 2
    others = [
        {"trait": sm.Trait("cat")},
        {"sets": {"last": [-2]}},
        {"answer_in_sufficiency": True},
    ]
    for number, other in enumerate(others):
        given = {"trait": TRAIT, "sets": SETS} | other
        sm.graft(llama, prompts[:1], **given, keep=tmp_path, progress=False)
        assert units() == 3 + number
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        CALLS["graft"](llama, prompts[:1], keep=tmp_path, progress=False)
    finally:
        torch.set_num_threads(threads)
    assert units() == 6


def test_a_function_that_was_rewritten_under_its_name_is_another():
    def made(source):
        space = {"__name__": "theirs"}
        exec(source, space)
        return space["read"]

    one, other = made("def read(x): return x"), made("def read(x): return x + 1")
    assert code([one]) == code([made("def read(x): return x")]) != code([other])
    assert code(sm.metrics.log_prob(TRAIT)) == ""


def test_what_was_kept_is_not_said_of_changed_weights(smol_tokenizer, prompts, tmp_path):
    base = tiny.model("llama")
    student = tiny.full(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    CALLS["graft"](pair, prompts, keep=tmp_path, progress=False)
    with torch.no_grad():
        next(base.parameters()).add_(1)
    with pytest.raises(ValueError, match="changed"):
        CALLS["graft"](pair, prompts, keep=tmp_path, progress=False)


def _full(base, sign):
    """A full student whose norms moved by less than bfloat16 holds beside 1."""
    student = tiny.full(base, scale=0.0)
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "norm" in name:
                p += sign * 1e-3 * torch.arange(p.numel()).sin()
    return student


def test_students_that_differ_by_little_are_two(smol_tokenizer, prompts, tmp_path):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    one, other = (sm.load_pair(loaded, _full(base, sign)) for sign in (1, -1))
    assert one.student.hash != other.student.hash
    kept = [CALLS["graft"](pair, prompts, keep=tmp_path, progress=False) for pair in (one, other)]
    alone = CALLS["graft"](other, prompts, progress=False)
    np.testing.assert_allclose(kept[1].data["effect"], alone.data["effect"], atol=1e-6)
    assert not np.allclose(kept[0].data["effect"], kept[1].data["effect"], atol=1e-6)


def test_parts_stand_where_the_pair_has_them(smol_tokenizer, prompts, tmp_path):
    """A control of more bands gives the axis a word more, which the student's own cells do not
    have: what was kept beside another control is not read into other places.
    """
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    student = tiny.lora(base, r=2, modules_to_save=["norm"], std=0.05)
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "modules_to_save" in name:
                p += 0.2
    found = []
    for rank in (2, 4):
        control = sm.models.load_student(loaded, tiny.lora(base, r=rank, seed=7), name="cat")
        pair = sm.load_pair(loaded, student, controls=[control]).split("band", bands=2)
        options = {"points": 2, "progress": False}
        found.append(sm.attribute(pair, prompts, TRAIT, keep=tmp_path, **options))
    fresh = sm.attribute(pair, prompts, TRAIT, **options)
    assert found[0].data["band"].values.tolist() != found[1].data["band"].values.tolist()
    np.testing.assert_allclose(found[1].data["effect"], fresh.data["effect"], atol=1e-6)


@pytest.mark.parametrize("call", [*CALLS, "confirm"])
def test_a_model_s_folder_is_none_to_keep_in(call, llama, prompts, tmp_path):
    """What is kept would be taken for weights of the student, which then no longer loads."""
    student = tiny.lora(tiny.model("llama"))
    student.save_pretrained(tmp_path / "owl")
    before = {file.name for file in (tmp_path / "owl").iterdir()}
    with pytest.raises(ValueError, match=r"keep=.*is a model's folder \(it has adapter_config"):
        (CALLS | {"confirm": _confirm})[call](llama, prompts, keep=tmp_path / "owl", progress=False)
    assert {file.name for file in (tmp_path / "owl").iterdir()} == before


@pytest.mark.parametrize("call", [*CALLS, "confirm"])
def test_a_file_is_no_folder_to_keep_in(call, llama, prompts, tmp_path):
    file = tmp_path / "scores"
    file.touch()
    with pytest.raises(FileExistsError, match=r"keep=.*is a file; name a folder"):
        (CALLS | {"confirm": _confirm})[call](llama, prompts, keep=file, progress=False)
