"""Hybrids: against models assembled by hand from several checkpoints, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, brute_force

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.instruments import hybrid
from sublim_mech.models.students import load_student

NAMES = ["owl", "penguin", "wolf"]


def make(architecture: str, kind: str, tokenizer: Any) -> tuple[Any, dict[str, Any], Any]:
    """A base, three live students of it, and the pair of them, in fp64."""
    base = tiny.model(architecture).double()
    build = tiny.lora if kind == "lora" else tiny.full
    live = {name: build(base, seed=seed).double() for seed, name in enumerate(NAMES, 1)}
    loaded = sm.load_base(base, tokenizer=tokenizer)
    owl, *others = [load_student(loaded, one, name=name) for name, one in live.items()]
    return base, live, sm.load_pair(loaded, owl, controls=others)


@pytest.fixture(scope="module", params=[("llama", "lora"), ("gpt2", "full")], ids="-".join)
def three(request, smol_tokenizer):
    return make(*request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    return make("llama", "lora", smol_tokenizer)[2]


def merged(model: Any) -> Any:
    model = copy.deepcopy(model)
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def rows(found: Any) -> dict[str, float]:
    return found.table()["effect"].to_dict()


# ----------------------------------------------------------------------------------- what they are


def test_on_disjoint_layers_it_is_the_model_assembled_from_the_checkpoints(
    three, prompts, smol_tokenizer
):
    base, live, pair = three
    layers = {"owl": [0], "penguin": [1], "wolf": [2]}
    made = copy.deepcopy(base)
    values = made.state_dict()
    for name, chosen in layers.items():
        own = merged(live[name]).state_dict()
        inside = [key for key in values if any(f".{layer}." in key for layer in chosen)]
        for key in inside:
            values[key] = own[key]
    made.load_state_dict(values)
    parts = {name: masks.layers(chosen) for name, chosen in layers.items()}
    found = hybrid(pair, prompts, TRAIT, parts, answer=NAMES, **QUIET)
    expected = [brute_force(made, smol_tokenizer, prompt) for prompt in prompts]
    np.testing.assert_allclose(found.scores.data["student"].values[0], expected, atol=1e-6)
    # each part and each complement is a graft and a hybrid of its own
    sets = {"part": parts["owl"]}
    alone = sm.graft(pair, prompts, TRAIT, sets, answer_in_sufficiency=True, **QUIET)
    alone = alone.data["effect"].sel(model="student", set="part", measure="sufficiency")
    own = found.scores.data["effect"].sel(set="owl", measure="sufficiency", model="student")
    np.testing.assert_allclose(own, alone, atol=1e-9)
    others = {name: parts[name] for name in NAMES[1:]}
    two = hybrid(pair, prompts, TRAIT, others, answer=NAMES[1:], **QUIET)
    lost = found.scores.headline.sel(set="owl", measure="necessity").values
    np.testing.assert_allclose(found.scores.total - lost, two.scores.total, atol=1e-9)
    # whole = sum of parts + interaction
    table = rows(found)
    parts_alone = sum(table[f"{name} alone"] for name in NAMES)
    assert table["whole"] == pytest.approx(parts_alone + table["interaction"], abs=1e-9)
    assert abs(table["interaction"]) > 1e-6
    np.testing.assert_allclose(found.interval.mean, table["interaction"])


def test_a_student_with_itself_is_the_student(smol_tokenizer, prompts):
    """Its twin has the same weights in other factors, and so another hash."""
    base = tiny.model("llama").double()
    owl = tiny.lora(base).double()
    twin = copy.deepcopy(owl)
    for name, p in twin.named_parameters():
        if "lora_" in name:
            p.data *= 2 if "lora_A" in name else 0.5
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = load_student(loaded, twin, name="twin")
    alone = sm.load_pair(loaded, load_student(loaded, owl, name="owl"))
    pair = replace(alone, controls=(control,))  # which `load_pair` refuses as the student itself
    system = masks.role("system")
    found = hybrid(pair, prompts, TRAIT, {"owl": system, "twin": ~system}, answer="owl", **QUIET)
    expected = sm.effect(pair, prompts, TRAIT, progress=False).data.sel(model="student")
    np.testing.assert_allclose(
        found.scores.data["student"].values[0], expected["student"], atol=1e-9
    )
    # students of one name are called as the pair calls them
    twice = replace(pair, controls=(replace(pair.controls[0], name="owl"),))
    parts = {"student": system, "control: owl": ~system}
    assert "control: owl alone" in hybrid(twice, prompts, TRAIT, parts, **QUIET).table().index
    # of two, what is left without one is the other
    table = rows(found)
    assert table["without owl"] == pytest.approx(table["twin alone"], abs=1e-12)
    # its scores say themselves what they are of; the other student is a part, not missing
    whose = f"parts of a hybrid, {found.scores.record.metric}, answers computed by owl"
    for said in (repr(found), repr(found.scores), found.scores.title()):
        assert said.startswith(whose)
        assert "no controls" not in said
    assert not any("no controls" in note for note in found.scores.notes())
    axes = found.scores.plot()
    words = [t.get_text() for t in axes.figure.findobj(lambda o: hasattr(o, "get_text"))]
    words = " ".join(" ".join(words).split())
    assert whose in words
    assert "share of the total effect: hybrid" in words
    assert "no controls" not in words
    # and the base computes the answer unless somebody is named
    closed = hybrid(pair, prompts, TRAIT, {"owl": system, "twin": ~system}, **QUIET)
    sets = {"all": masks.everything()}
    graft = sm.graft(pair, prompts, TRAIT, sets, **QUIET).data["effect"]
    graft = graft.sel(model="student", set="all", measure="sufficiency")
    np.testing.assert_allclose(closed.scores.total, graft, atol=1e-9)
    assert "answers computed by the base" in repr(closed)


def test_summed_differences_are_summed_weights(three, prompts, smol_tokenizer):
    base, live, pair = three
    made = copy.deepcopy(base)
    values = {key: value.clone() for key, value in made.state_dict().items()}
    for name in ("owl", "penguin"):
        own = merged(live[name]).state_dict()
        for key in values:
            values[key] += own[key] - base.state_dict()[key]
    made.load_state_dict(values)
    both = dict.fromkeys(("student", "control: penguin"), masks.everything())
    found = hybrid(pair, prompts, TRAIT, both, answer=list(both), allow="sum", **QUIET)
    expected = [brute_force(made, smol_tokenizer, prompt) for prompt in prompts]
    np.testing.assert_allclose(found.scores.data["student"].values[0], expected, atol=1e-6)
    assert "add up" in repr(found)


def test_students_are_parts_of_a_split_pair_too(pair, prompts):
    """The same hybrid as one set of a graft, and as cells of graft IG."""
    system, user = masks.role("system"), masks.role("user")
    found = hybrid(pair, prompts, TRAIT, {"owl": system, "wolf": user}, **QUIET)
    joined = pair.split("student")
    assert joined.model is pair.model, "one copy of the base"
    assert not joined.controls
    told = "(owl + penguin + wolf): their differences added, as one student"
    assert told in " ".join(joined.notes())
    assert told in repr(sm.effect(joined, prompts[:1], TRAIT, **QUIET))
    mask = (masks.student("owl") & system) | (masks.student("wolf") & user)
    graft = sm.graft(joined, prompts, TRAIT, {"hybrid": mask}, **QUIET)
    np.testing.assert_allclose(
        found.scores.total, graft.headline.sel(set="hybrid", measure="sufficiency"), atol=1e-9
    )
    scores = sm.attribute(joined, prompts, TRAIT, points=16, **QUIET)
    assert scores.data["whose"].values.tolist() == ["owl", "penguin", "wolf"] == NAMES
    assert scores.gap < 0.01


def test_a_scaled_part_has_so_much_of_its_difference(pair, prompts):
    system, user = masks.role("system"), masks.role("user")
    once = hybrid(pair, prompts, TRAIT, {"owl": system, "wolf": user}, **QUIET)
    none = hybrid(pair, prompts, TRAIT, {"owl": system, "wolf": user.scaled(0.5)}, **QUIET)
    assert rows(none)["owl alone"] == pytest.approx(rows(once)["owl alone"], abs=1e-12)
    sets = {"half": user.scaled(0.5)}
    graft = sm.graft(pair, prompts, TRAIT, sets, **QUIET).data["effect"]
    graft = graft.sel(model="control: wolf", set="half", measure="sufficiency")
    alone = none.scores.headline.sel(set="wolf", measure="sufficiency")
    np.testing.assert_allclose(alone, graft, atol=1e-9)


def test_what_was_finished_is_kept(pair, prompts, tmp_path):
    parts = {"owl": masks.role("system"), "wolf": masks.role("user")}
    first = hybrid(pair, prompts, TRAIT, parts, keep=tmp_path, **QUIET)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    again = hybrid(pair, prompts, TRAIT, parts, keep=tmp_path, **QUIET)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert len(files) == len(prompts)
    np.testing.assert_array_equal(first.interaction, again.interaction)


# ---------------------------------------------------------------------------------------- refusals


def test_what_is_no_hybrid_is_refused(pair, prompts):
    system, everything = masks.role("system"), masks.everything()

    def refused(parts: Any, match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            hybrid(pair, prompts, TRAIT, parts, **options, **QUIET)

    refused({"owl": system}, "two or more students")
    refused({"owl": system, "student": ~system}, "one student twice")
    refused(
        {"owl": system, "pengiun": ~system},
        "parts: student='pengiun' is no student of this pair; did",
    )
    refused({"owl": system, "wolf": ~system}, "answer='wlf' is no student", answer="wlf")
    refused({"owl": system, "wolf": everything}, r"'owl' and 'wolf' have \d+ cells of prompt")
    both = {"owl": system, "wolf": ~system}
    refused(both, "the answer's own", answer=["owl", "wolf"])
    refused(both, "penguin has no part", answer="penguin")
    refused({"owl": system, "wolf": masks.role("answer")}, "name who computes the answer")
    refused({"owl": system, "wolf": masks.modules("norms")}, "holds no cell that 'wolf' changes")


def test_students_of_different_bases_are_refused(pair, prompts):
    other = replace(pair.controls[0], base_hash="0" * 64)
    apart = replace(pair, controls=(other,))
    parts = {"owl": masks.role("system"), "penguin": masks.role("user")}
    with pytest.raises(ValueError, match="different bases"):
        hybrid(apart, prompts, TRAIT, parts, **QUIET)


def test_joined_students_have_no_model_of_their_own(pair, prompts):
    joined = pair.split("student")
    with pytest.raises(ValueError, match="several students as one, which has no model"):
        joined.student_bridge()
    assert sm.verify(joined, prompts).passed
    with torch.no_grad():
        pair.student.deltas["model.layers.0.self_attn.q_proj"].a[0, 0] += 1
    try:
        with pytest.raises(ValueError, match="changed"):
            hybrid(
                pair,
                prompts,
                TRAIT,
                {"owl": masks.role("system"), "wolf": masks.role("user")},
                **QUIET,
            )
    finally:
        pair.student.deltas["model.layers.0.self_attn.q_proj"].a[0, 0] -= 1


def test_the_picture_shows_the_table(pair, prompts, tmp_path):
    parts = {"owl": masks.role("system"), "penguin": masks.role("user"), "wolf": [-1]}
    found = hybrid(pair, prompts, TRAIT, parts, answer="owl", **QUIET)
    path = tmp_path / "hybrid.png"
    axes = found.plot(path=path, labels={"owl": "first"})
    assert path.read_bytes()[:4] == b"\x89PNG"
    bars, table = axes.containers[0], found.table()
    np.testing.assert_allclose([bar.get_width() for bar in bars], table["effect"])
    lines = axes.collections[1]  # the intervals, on white edges
    ends = np.array([segment[:, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends, table[["low", "high"]])
    names = [text.get_text().split("\n") for text in axes.get_yticklabels()]
    assert [name for name, *_ in names] == [name.replace("owl", "first") for name in table.index]
    notes = {name: " ".join(rest) for name, *rest in names}
    assert notes["wolf alone"] == "at 1 token"
    tokens = int(found.scores.data["tokens"].sel(set="owl").mean())
    assert notes["first alone"] == f"at {tokens} tokens and the answer's own"
    assert f"{found.interval.mean:+.2g}" in notes["interaction"]
    title = " ".join(axes.get_title().split())
    assert "first at system; penguin at user; wolf at chosen tokens" in title
    assert "answers computed by first" in title
    # a part and the hybrid without it have one colour, the latter paler
    colours = [bar.get_facecolor() for bar in bars]
    for part in range(3):
        alone, without = colours[1 + 2 * part], colours[2 + 2 * part]
        assert alone[:3] == without[:3]
        assert without[3] < alone[3] == 1
    assert len({colour[:3] for colour in colours}) == 5
    with pytest.raises(ValueError, match="labels: 'nobody' is no name"):
        found.plot(labels={"nobody": "x"})
