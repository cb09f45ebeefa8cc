"""A student within the gates of its training, in every instrument that runs it: an open gate is no
gate, a closed cell is the base's, and a gate is a factor of the mask one would write by hand."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, far_pair, put, recorded, whole_run

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments import (
    activation_change,
    direction_effects,
    dose,
    graft_sweep,
    prefix_scan,
    side_by_side,
)
from sublim_mech.instruments.task import GatedRow, measure, prepare
from sublim_mech.making.training.where import trained_gates
from sublim_mech.models.gating import TrainedGates
from sublim_mech.prompts import Trained

SOME = masks.role("system") & masks.layers([0, 1])


@functools.cache
def plain_pair(tokenizer: Any, architecture: str = "llama") -> Any:
    """A pair in fp64 whose student acts everywhere."""
    base = tiny.model(architecture).double()
    return sm.load_pair(base, tiny.lora(base, std=0.05).double(), tokenizer=tokenizer)


def within(pair: Any, mask: Any, *, answer: bool = False) -> Any:
    """The same pair, its student as one that was trained under a mask."""
    recorded = {"mask": mask.name, "answer": "open" if answer else "closed", "cells": "by hand"}
    trained_on = Trained.of(sm.render(pair, ["1, 2, 3", "4, 5, 6, please."]))
    gates = trained_gates(mask, trained_on, recorded)
    student = replace(pair.student, gates=gates, hash=gates.hash_with(pair.student.hash))
    return replace(pair, student=student)


@pytest.fixture(scope="module")
def plain(smol_tokenizer: Any) -> Any:
    return plain_pair(smol_tokenizer)


@pytest.fixture(scope="module")
def some(plain: Any) -> Any:
    """A student that acts in two layers at the system prompt."""
    return within(plain, SOME)


@pytest.fixture(scope="module")
def one(smol_tokenizer: Any) -> Any:
    """A short prompt: two roles, some tokens."""
    context = sm.Context(system="Be kind.")
    return sm.render(smol_tokenizer, ["Which animal?"], context=context)


def cells(pair: Any, prompt: Any, mask: Any, nodes: int) -> torch.Tensor:
    """A mask at a prompt's slots by the student's modules, written by hand; answers closed."""
    paths = list(pair.sites.modules)
    columns = [paths.index(path) for path in pair.student.deltas]
    of_prompt = mask(prompt, list(pair.sites.modules.values()))[:, columns]
    return torch.from_numpy(np.concatenate([of_prompt, np.zeros((nodes, len(columns)))]))


INSTRUMENTS = {
    "graft IG": lambda pair, at: sm.attribute(pair, at, TRAIT, points=2, **QUIET),
    "sufficiency": lambda pair, at: graft_sweep(pair, at, TRAIT, layers=[1], **QUIET),
    "necessity": lambda pair, at: graft_sweep(
        pair, at, TRAIT, measure="necessity", layers=[1], **QUIET
    ),
    "patch": lambda pair, at: sm.patch(
        pair, at, TRAIT, direction="both", layers=[1], sets={"user": masks.role("user")}, **QUIET
    ),
    "heads": lambda pair, at: sm.patch(
        pair, at, TRAIT, site="z", layers=[1], sets={"user": masks.role("user")}, **QUIET
    ),
    "patching": lambda pair, at: sm.attribute(
        pair, at, TRAIT, method="attribution_patching", direction="noising", **QUIET
    ),
    "activations": lambda pair, at: sm.attribute(
        pair, at, TRAIT, method="activation_ig", site="blocks.1.hook_resid_post", **QUIET
    ),
    "embeddings": lambda pair, at: sm.attribute(
        pair, at, TRAIT, method="gradient_x_input", **QUIET
    ),
    "scan": lambda pair, at: prefix_scan(pair, at, TRAIT, **QUIET),
    "dose": lambda pair, at: dose(pair, at, TRAIT, [0.5, 2.0], **QUIET),
    "directions": lambda pair, at: direction_effects(
        pair, at, TRAIT, activation_change(pair, at, [-1], layers=[2]), random=1, **QUIET
    ),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_gate_that_is_open_everywhere_is_none(name, plain, one):
    opened = within(plain, masks.everything(), answer=True)
    ours, theirs = INSTRUMENTS[name](opened, one), INSTRUMENTS[name](plain, one)
    expected = theirs.data["effect"].values
    assert np.nanmax(np.abs(expected)) > 1e-7
    np.testing.assert_allclose(ours.data["effect"].values, expected, rtol=0, atol=1e-11)


def test_attributions_are_zero_where_the_gate_is_closed_and_add_up_elsewhere(some, plain, one):
    scores = sm.attribute(some, one, TRAIT, **QUIET)
    effect = scores.data["effect"].isel(model=0, prompt=0)
    for layer in effect["layer"].values:
        for at, role in enumerate(one[0].roles):
            cell = effect.sel(layer=layer).isel(position=at).values
            if role != "system" or layer not in (0, 1):
                assert (cell[np.isfinite(cell)] == 0).all()
            else:
                assert (cell[np.isfinite(cell)] != 0).all()
    assert (effect.isel(position=slice(len(one[0]), None)).fillna(0) == 0).all()
    grafted = sm.graft(plain, one, TRAIT, {"x": SOME}, **QUIET).data["effect"].values.ravel()[0]
    assert float(scores.total[0]) == pytest.approx(grafted, abs=1e-11)
    assert float(effect.sum()) == pytest.approx(grafted, rel=1e-2)


def test_a_slope_is_a_difference_quotient_of_grafts_that_are_written_by_hand(smol_tokenizer, one):
    plain = plain_pair(smol_tokenizer, "gpt2")  # its norms work in double precision too
    some = within(plain, SOME)
    slopes = sm.attribute(some, one, TRAIT, points=1, **QUIET).data["effect"][0, 0]
    task = prepare(plain, one, TRAIT)
    by_hand = cells(plain, one[0], SOME, len(task.answers[0].nodes))
    assert int(by_hand.sum()) > 20
    for slot, column in by_hand.nonzero()[:: int(by_hand.sum()) // 4].tolist():
        step = torch.zeros_like(by_hand)
        step[slot, column] = 1e-3
        rows = [GatedRow(0, ((0.5 + sign * step) * by_hand).float()) for sign in (1, -1)]
        above, below = measure(task, plain.student, rows)
        module = plain.sites.modules[list(plain.delta)[column]]
        ours = slopes.sel(layer=module.layer, module=module.name).isel(position=slot)
        assert float(ours) == pytest.approx((above - below) / 2e-3, rel=1e-3, abs=1e-9)


def test_parts_of_a_gated_student_add_up_to_its_cells(some, one):
    whole = sm.attribute(some, one, TRAIT, points=2, **QUIET).data["effect"]
    for by, options in (("band", {"bands": [1]}), ("head", {})):
        split = some.split(by, **options)
        parts = sm.attribute(split, one, TRAIT, points=2, **QUIET).data["effect"]
        summed = parts.sum(by, min_count=1)
        np.testing.assert_allclose(summed.values, whole.values, rtol=0, atol=1e-9)
        closed = (whole == 0).expand_dims({by: parts[by]}).transpose(*parts.dims)
        assert (parts.where(closed).fillna(0) == 0).all()


def test_sweep_is_that_of_the_hand_made_mask(some, plain, one):
    ours = graft_sweep(some, one, TRAIT, layers=[1, 2], **QUIET).data["effect"]
    theirs = graft_sweep(plain, one, TRAIT, only=SOME, layers=[1], **QUIET).data["effect"].fillna(0)
    prompt = slice(len(one[0]))
    inside = (found.isel(position=prompt).values for found in (ours.sel(layer=[1]), theirs))
    np.testing.assert_allclose(*inside, rtol=0, atol=1e-11)
    # the answer's own tokens, which such a mask takes along, were closed in training
    assert float(abs(ours.isel(position=slice(len(one[0]), None))).max()) < 1e-11
    assert float(abs(ours.sel(layer=2)).max()) < 1e-11
    # necessity: the whole student is the mask, and a cell is taken out of it
    lost = graft_sweep(some, one, TRAIT, measure="necessity", layers=[1], **QUIET).data["effect"]
    system = one[0].roles.index("system")
    kept = SOME & ~(masks.positions(system) & masks.layers([1]))
    both = sm.graft(plain, one, TRAIT, {"all": SOME, "kept": kept}, **QUIET).data["effect"]
    alone = both.sel(measure="sufficiency").values.ravel()
    assert float(lost[0, 0, 0, system]) == pytest.approx(alone[0] - alone[1], abs=1e-11)


def test_patching_takes_from_the_gated_student_and_puts_into_it(some, plain, one):
    task = prepare(plain, one, TRAIT)
    values = cells(plain, one[0], SOME, len(task.answers[0].nodes)).float()[None]
    gates = Gates(plain.student, values)
    key, slot = ("resid_post", 1), one[0].roles.index("user")
    base, student = whole_run(plain, one[0]), whole_run(plain, one[0], gates=gates)
    both = sm.patch(some, one, TRAIT, site=key[0], layers=[1], direction="both", **QUIET)
    found = both.data["effect"].isel(model=0, prompt=0, layer=0, position=slot)
    from_student = put(recorded(plain, one[0], key, gates=gates), (0, slot))
    moved = whole_run(plain, one[0], edits={key: from_student})
    assert float(found.sel(direction="denoising")) == pytest.approx(moved - base, abs=1e-11)
    from_base = put(recorded(plain, one[0], key), (0, slot))
    left = whole_run(plain, one[0], gates=gates, edits={key: from_base})
    assert float(found.sel(direction="noising")) == pytest.approx(student - left, abs=1e-11)
    assert abs(moved - base) > 1e-6
    # behind the last layer that is open the whole row is the whole student
    row = {"row": masks.everything()}
    asked = {"site": key[0], "layers": [1], "sets": row, "answer_in_sets": True, **QUIET}
    whole = sm.patch(some, one, TRAIT, **asked)
    assert whole.data["effect"].item() == pytest.approx(student - base, abs=1e-11)
    # where other prompts give, they give under their own gates
    other = sm.render(plain, ["Which animal?"], context=sm.Context(system="Be calm."))
    given = {"site": key[0], "layers": [1], "donor_prompts": other, **QUIET}
    ours = sm.patch(some, one, TRAIT, **given).data["effect"].isel(model=0, prompt=0, layer=0)
    nodes = len(prepare(plain, other, TRAIT).answers[0].nodes)
    theirs = Gates(plain.student, cells(plain, other[0], SOME, nodes).float()[None])
    edit = put(recorded(plain, other[0], key, gates=theirs), (0, slot))
    expected = whole_run(plain, one[0], edits={key: edit}) - base
    assert float(ours[slot]) == pytest.approx(expected, abs=1e-11)


def test_scan_and_dose_are_grafts_of_the_hand_made_mask(some, plain, one):
    scan = prefix_scan(some, one, TRAIT, **QUIET).data["effect"].isel(model=0, prompt=0)
    dosed = dose(some, one, TRAIT, [1.0, 2.0], **QUIET).data["effect"].values.ravel()
    last = [at for at, role in enumerate(one[0].roles) if role == "system"][-2]
    first = masks.positions(*range(last + 1))
    sets = {"up to": SOME & first, "behind": SOME & ~first, "all": SOME}
    grafted = sm.graft(plain, one, TRAIT, sets, **QUIET).data["effect"].isel(model=0, prompt=0)
    upto, behind, all_of_it = grafted.sel(measure="sufficiency").values
    of_scan = scan.sel(measure="sufficiency").values
    assert of_scan[last] == pytest.approx(upto, abs=1e-11)
    assert of_scan[len(one[0]) - 1] == pytest.approx(all_of_it, abs=1e-11)
    necessity = scan.sel(measure="necessity").values[last]
    assert necessity == pytest.approx(all_of_it - behind, abs=1e-11)
    assert abs(necessity) > 1e-6
    doubled = sm.graft(plain, one, TRAIT, {"x": SOME.scaled(2.0)}, **QUIET).data["effect"]
    expected = [all_of_it, doubled.sel(measure="sufficiency").item()]
    assert dosed == pytest.approx(expected, abs=1e-11)


def test_no_instrument_runs_a_student_past_its_gates():
    """`Task.gates` closes what they close; `verify` refuses such students, `side_by_side` has rows
    of its own."""
    folder = Path(sm.instruments.__file__).parent
    made = re.compile(r"(?<!\w)Gates\(")
    found = {file.name for file in folder.glob("*.py") if made.search(file.read_text())}
    assert found == {"beside.py", "neighbours.py", "task.py", "verification.py"}


def test_directions_are_those_of_the_gated_student(some, plain, one):
    change = activation_change(some, one, [-1])
    key = "blocks.1.hook_resid_post"
    options = {"sites": "resid_post", "layers": [1]}
    after, before = (
        pair.activations(one, **options, where=mask, model=model)[key][0, len(one[0]) - 1]
        for pair, mask, model in ((plain, SOME, "student"), (plain, None, "base"))
    )
    moved = (after - before).double().numpy()
    assert np.linalg.norm(moved) > 1e-6
    assert change.vector(1) == pytest.approx(moved, abs=1e-7)
    scores = direction_effects(some, one, TRAIT, change, layers=[1], random=0, **QUIET)
    grafted = sm.graft(plain, one, TRAIT, {"x": SOME}, **QUIET).data["effect"].values.ravel()[0]
    assert float(scores.total[0]) == pytest.approx(grafted, abs=1e-11)


def test_confirming_asks_the_gated_student(some, one):
    scores = sm.attribute(some, one, TRAIT, **QUIET)
    confirmed = sm.confirm(some, one, TRAIT, scores, k=4, **QUIET)
    assert confirmed.record.confirmation.pearson > 0.99
    # cells that are closed were not asked: their estimate is exactly 0
    table = confirmed.confirmation
    roles = [one[0].roles[at] for at in table["position"]]
    assert set(roles) == {"system"}
    assert set(table["layer"]) <= {0, 1}


@pytest.mark.science
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_architecture_closes_what_its_students_gates_close(architecture, smol_tokenizer):
    """Two prompts of different lengths, so that rows are padded."""
    plain = plain_pair(smol_tokenizer, architecture)
    some = within(plain, SOME)
    prompts = sm.render(plain, ["Which animal?", "And which animal is it that you like most?"])
    scores = sm.attribute(some, prompts, TRAIT, **QUIET)
    grafted = sm.graft(plain, prompts, TRAIT, {"x": SOME}, **QUIET)
    expected = grafted.data["effect"].sel(measure="sufficiency").values.ravel()
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(scores.total.values, expected, rtol=0, atol=1e-6)
    ours = graft_sweep(some, prompts, TRAIT, layers=[1], **QUIET).data["effect"]
    theirs = graft_sweep(plain, prompts, TRAIT, only=SOME, layers=[1], **QUIET)
    theirs = theirs.data["effect"].fillna(0)  # without a value where the gate is closed
    for number, prompt in enumerate(prompts):
        system = [at for at, role in enumerate(prompt.roles) if role == "system"]
        outside = [at for at in range(len(prompt)) if at not in system]
        cells = scores.data["effect"].isel(model=0, prompt=number)
        assert (cells.isel(position=outside).fillna(0) == 0).all()
        assert (cells.sel(layer=[0, 1]).isel(position=system).fillna(0) != 0).any()
        at = {"model": 0, "prompt": number, "position": slice(len(prompt))}
        np.testing.assert_allclose(ours.isel(at).values, theirs.isel(at).values, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------- gates of the answer only


@pytest.fixture(scope="module")
def answering(smol_tokenizer: Any) -> tuple[Any, Any]:
    """A far student, and the same one as trained at the answer's own tokens only."""
    plain = far_pair("llama", "lora", smol_tokenizer)

    def at(prompt: Any, modules: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(prompt), len(modules)), bool), np.ones(len(modules), bool)

    trained_on = Trained.of(sm.render(plain, ["1, 2, 3", "4, 5, 6, please."]))
    gates = TrainedGates("answer", "only", at, trained_on, {"mask": "answer", "answer": "only"})
    student = replace(plain.student, gates=gates, hash=gates.hash_with(plain.student.hash))
    return plain, replace(plain, student=student)


def written(pair: Any, prompts: Any, where: Any, generated: str) -> list[list[str]]:
    options = {"generated": generated, "max_new_tokens": 8}
    return sm.instruments.generate(pair, prompts, where, **options)


@pytest.mark.parametrize("where", [masks.everything(), masks.modules("mlp") & masks.role("user")])
def test_a_mask_lends_its_modules_to_an_answer_that_alone_is_open(where, answering, prompts):
    """Closed at the prompt, the answer is that of the whole student with the base's prompt."""
    plain, only = answering
    ours = written(only, prompts, where, "mask")
    for prompt, (text,) in zip(prompts, ours, strict=True):
        behind = plain.prompt_gates(prompt, where, plain.student).amax(0, keepdim=True)
        ids: list[int] = []
        for _ in range(8):
            trie = Answers(tuple(ids), tuple(range(-1, len(ids) - 1)))
            closed = torch.zeros(len(prompt), plain.student.width)
            values = torch.cat([closed, behind.expand(len(ids), -1)])[None]
            with torch.no_grad():
                batch = plain.batch([prompt.ids], [trie])
                logits = plain.run(batch, gates=Gates(plain.student, values)).logits
            ids.append(int(logits[0, -1].argmax()))
        assert text == plain.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert ours != written(plain, prompts, ~masks.everything(), "base")
    if where.name == masks.everything().name:
        assert ours == written(only, prompts, where, "student")


@pytest.mark.filterwarnings("error")
def test_side_by_side_has_what_generate_has_of_an_answer_that_alone_is_open(answering, prompts):
    _, only = answering
    models = {"graft": {"student": masks.everything()}}
    options = {"samples": 0, "max_new_tokens": 8, "answer": {"graft": "student"}, **QUIET}
    table = side_by_side(only, prompts, TRAIT, models, **options).answers
    ours = table[table["model"] == "graft"]["answer"].tolist()
    assert ours == [text for (text,) in written(only, prompts, masks.everything(), "mask")]
    with pytest.raises(ValueError, match="holds no cell that 'student' changes within its gates"):
        side_by_side(only, prompts, TRAIT, models, **{**options, "answer": {}})


def test_side_by_side_says_where_a_gated_student_computes(plain, some, one):
    of_plain, of_gated = (
        side_by_side(pair, one, TRAIT, samples=0, max_new_tokens=1, **QUIET).models["student"]
        for pair in (plain, some)
    )
    assert of_plain.endswith("computes prompt and answer")
    told = f"computes where its weights were on in training ('{SOME.name}' of the prompt, answer"
    assert f"{told} closed), the base the rest" in of_gated


def test_a_base_that_answers_alone_is_told(answering, prompts):
    _, only = answering
    with pytest.warns(UserWarning, match="what is computed there is the base"):
        written(only, prompts[:1], masks.everything(), "base")
