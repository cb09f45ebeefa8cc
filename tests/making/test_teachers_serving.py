"""Sampling through vLLM: what its process is asked for, and the gate before a row is believed.

vLLM itself cannot run here: `stand_ins/vllm` has its names and answers from a file. The
log-probabilities in that file are plain transformers' and PEFT's own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech.making import numbers, teachers
from sublim_mech.making.teachers import serving

STAND_INS = Path(__file__).parents[1] / "stand_ins"


class Served(NamedTuple):
    """A base, its teachers, an adapter, and all log-probabilities of the probe's rows."""

    prompted: teachers.Teacher
    tuned: teachers.Teacher
    adapter: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def served(smol_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Served:
    home = tmp_path_factory.mktemp("served")
    model = tiny.model("llama")
    model.save_pretrained(home / "base")
    smol_tokenizer.save_pretrained(home / "base")
    student = tiny.lora(model, r=4)
    student.save_pretrained(home / "owl")
    base = sm.load_base(home / "base")
    owl = sm.animal("owl")
    prompted = teachers.prompted(base, owl)
    tuned = teachers.fine_tuned(base, home / "owl", owl)
    adapter = str((home / "owl").resolve())
    rows = numbers.random_rows(serving.PROBES, seed=0, count=serving.OF_NUMBERS)
    known: dict[str, dict[str, list[float]]] = {"": {}, adapter: {}}
    for context, models in (
        (prompted.context, {"": model}),
        (tuned.context, {"": model, adapter: student}),
    ):
        prompts = sm.render(smol_tokenizer, [row["prompt"] for row in rows], context=context)
        for prompt, row in zip(prompts, rows, strict=True):
            answer = smol_tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt.ids, *answer]])
            for name, one in models.items():
                with torch.no_grad():
                    values = one(input_ids=ids).logits[0, :-1].log_softmax(-1)
                key = " ".join(map(str, ids[0].tolist()))
                known[name][key] = values.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    digits = smol_tokenizer.convert_tokens_to_ids(list("0123456789"))
    return Served(prompted, tuned, home / "owl", {"log_probs": known, "digits": digits})


@pytest.fixture
def stand_in(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the stand-in where vLLM would be; called with what it does otherwise."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    monkeypatch.setenv("VLLM_STAND_IN", str(tmp_path / "told.json"))

    def told(**otherwise: Any) -> None:
        (tmp_path / "told.json").write_text(json.dumps({**served.told, **otherwise}))

    told()
    return told


def asked(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "told.asked").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_prompted_teacher_writes_rows_of_its_own_prompts(served, stand_in, tmp_path):
    with teachers.vllm_sampler(served.prompted, max_new_tokens=6) as write:
        rows, report = numbers.write_rows(write, 6, seed=3, batch_size=6)
        again = write(["a", "b"], 1), write(["a", "b"], 1), write(["b", "a", "a"], 1)
    assert report.loc["valid", "count"] == 6
    assert all(numbers.parse(row["completion"]).reason is None for row in rows)
    assert again[0] == again[1]
    b, a, a_again = again[2]
    assert [a, b] == again[0]  # of seed and prompt, not of the company
    assert a_again != a

    opened, probed, drawn = asked(tmp_path)[:3]
    assert (opened["dtype"], opened["enable_lora"]) == ("float32", False)
    assert opened["generation_config"] == "vllm"  # not the model's own top_p and penalties
    assert len(probed["prompts"]) == serving.PROBES
    prompts = numbers.number_prompts(6, seed=3)
    rendered = sm.render(
        served.prompted.base.tokenizer, [p.prompt for p in prompts], context=served.prompted.context
    )
    assert drawn["prompts"] == [list(prompt.ids) for prompt in rendered]
    assert len({params["seed"] for params in drawn["params"]}) == 6
    assert {params["temperature"] for params in drawn["params"]} == {1.0}
    assert {params["max_tokens"] for params in drawn["params"]} == {6}


def test_an_answer_that_vllm_cut_off_is_none(served, stand_in):
    """The stand-in writes three digits and then a stop token."""
    for tokens, whole in ((3, False), (4, True)):
        with teachers.vllm_sampler(served.prompted, max_new_tokens=tokens) as write:
            assert [answer is not None for answer in write(["a", "b"], 1)] == [whole, whole]


def test_an_adapter_goes_along_at_the_least_rank_that_holds_it(served, stand_in, tmp_path):
    with teachers.vllm_sampler(served.tuned, adapter=served.adapter) as write:
        assert len(write(["Three numbers."], 0)) == 1
    opened, probed, drawn = asked(tmp_path)
    assert (opened["enable_lora"], opened["max_lora_rank"]) == (True, 8)  # of rank 4
    assert probed["adapter"] == drawn["adapter"] == str(served.adapter.resolve())


@pytest.mark.parametrize(("rank", "wanted"), [(1, 1), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_ranks_are_those_that_vllm_has(rank, wanted, tmp_path):
    config = {"r": 1, "rank_pattern": {"q_proj": rank}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert serving._rank_of(tmp_path) == wanted


def test_log_probabilities_that_are_off_are_refused_with_the_numbers(served, stand_in):
    stand_in(off=0.2)
    with (
        pytest.raises(RuntimeError, match=r"differ by 0\.2 nats .* \(tolerance: 0\.05\)"),
        teachers.vllm_sampler(served.prompted),
    ):
        pytest.fail("it was believed")
    with teachers.vllm_sampler(served.prompted, tolerance=0.21, python=sys.executable):
        pass


def test_an_adapter_that_is_not_applied_is_refused_whatever_the_tolerance(served, stand_in):
    stand_in(ignores=True)
    with (
        pytest.raises(RuntimeError, match="a quarter of what the adapter does"),
        teachers.vllm_sampler(served.tuned, adapter=served.adapter, tolerance=100.0),
    ):
        pytest.fail("it was believed")


def test_a_process_that_dies_is_told_with_its_last_words(served, stand_in):
    stand_in(dies=True)
    with (
        pytest.raises(RuntimeError, match=r"died \(open, exit status 3\)(.|\n)*out of everything"),
        teachers.vllm_sampler(served.prompted),
    ):
        pytest.fail("it was believed")


def test_what_cannot_be_served_is_refused_before_a_process_starts(served, tmp_path, monkeypatch):
    if teachers.vllm_version() is None:
        with (
            pytest.raises(ModuleNotFoundError, match=r"sublim-mech\[vllm\]"),
            teachers.vllm_sampler(served.prompted),
        ):
            pytest.fail("without vLLM")
    (tmp_path / "adapter_config.json").write_text('{"r": 1024}')
    steered = replace(served.tuned, kind="steered")
    for message, teacher, options in (
        ("pass adapter=", served.tuned, {}),
        ("leave adapter out", served.prompted, {"adapter": served.adapter}),
        ("no adapter_config", served.tuned, {"adapter": tmp_path / "none"}),
        ("at most 512", served.tuned, {"adapter": tmp_path}),
        ("adds no vectors", steered, {}),
        ("temperature=0", served.prompted, {"temperature": 0.0}),
        ("tolerance=-1", served.prompted, {"tolerance": -1.0}),
        ("save_pretrained", served.prompted, {}),  # the last one: as a live model
    ):
        if message == "save_pretrained":
            monkeypatch.setattr(served.prompted.base.model.config, "_name_or_path", "")
        with (
            pytest.raises((ValueError, FileNotFoundError), match=message),
            teachers.vllm_sampler(teacher, **options),
        ):
            pytest.fail(message)
