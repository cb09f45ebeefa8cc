"""Cells over all prompts: lined up by place, tested as one map."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import synthetic

from sublim_mech.results import reliability
from sublim_mech.stats import max_t, mean_interval

PLACE = ["layer", "turn", "role", "run", "index"]


def runs_of(rows, turn, role):
    """The positions of each run of a role in a turn, found by walking the prompt."""
    tokens = range(len(rows))
    runs = [list(group) for _, group in groupby(tokens, key=lambda i: (rows[i][2], rows[i][1]))]
    return [r for r in runs if (rows[r[0]][2], rows[r[0]][1]) == (turn, role)]


def position_of(prompts, prompt, turn, role, run, index):
    """The position of a place in a prompt; None where it has none."""
    all_runs = [runs_of(rows, turn, role) for rows in prompts]
    lengths = {len(runs[run]) for runs in all_runs if run < len(runs)}
    if run >= len(all_runs[prompt]):
        return None
    tokens = all_runs[prompt][run]
    middle = len(tokens) if len(lengths) == 1 else (len(tokens) + 1) // 2
    inside = 0 <= index < middle or middle - len(tokens) <= index < 0
    return tokens[index] if inside else None


def test_cells_are_aligned_by_turn_role_and_place_in_the_run():
    rows = synthetic.several(9)
    scores = synthetic.sweep(rows, controls=0)
    effect, table = scores.data["effect"].values[0], scores.cells()
    assert not table.duplicated(PLACE).any()
    assert len(table) * 9 >= np.isfinite(effect).sum() == table["n"].sum()
    for cell in table.sample(60, random_state=0).itertuples():
        # by position in the row: a named tuple's own `index` is a method
        place = cell.turn, cell.role, cell.run, cell[6]
        positions = [position_of(rows, p, *place) for p in range(9)]
        where = [(p, t) for p, t in enumerate(positions) if t is not None]
        values = np.array([effect[p, cell.layer + 1, t] for p, t in where])
        assert (cell.n, cell.mean) == (len(values), pytest.approx(values.mean()))
        texts = {rows[p][t][0] for p, t in where}
        assert cell.token == (texts.pop() if len(texts) == 1 else "…")
        interval = mean_interval(values)
        expected = float(interval.low), float(interval.high)
        assert (cell.low, cell.high) == pytest.approx(expected, nan_ok=True)
    template = table[(table["turn"] == 1) & (table["role"] == "template")]
    closing = template[template["run"] == 1]
    assert set(closing["token"]) == {"<|im_end|>", "\n"}  # though questions are of other lengths
    assert (closing["n"] == 9).all()


@pytest.mark.parametrize("lengths", [range(5, 13), [12, 5, 9, 7, 6, 11, 10, 8]])
def test_last_tokens_of_raw_texts_of_other_lengths_are_one_place(lengths):
    rows = [[(f"{i}", "text", 0, "")] * n for i, n in enumerate(lengths)]
    scores = synthetic.sweep(rows, controls=0)
    effect = np.where(np.isnan(scores.data["effect"]), np.nan, 0.0)
    rng = np.random.default_rng(0)
    for prompt, length in enumerate(lengths):
        effect[0, prompt, 2, length - 1] = 1 + 0.1 * rng.normal()
    scores.data["effect"].values[:] = effect
    for prompt, length in enumerate(lengths):
        clear = np.argwhere(~scores.noise(prompt)[:, :length])
        np.testing.assert_array_equal(clear, [[2, length - 1]])


def test_cells_of_attributions_are_named_by_their_block():
    names = synthetic.attribution().cells()["name"]
    blocks = [f"blocks.{i}" for i in range(4)]
    assert list(dict.fromkeys(names)) == ["embed", *blocks, "ln_final+unembed"]


def test_p_of_cells_is_that_of_the_whole_map():
    # all prompts alike: places are positions
    scores = synthetic.sweep([synthetic.chat()] * 8, controls=0)
    test = max_t(scores.data["effect"].values[0])
    table = scores.cells().sort_values(["layer", "turn", "run", "role", "index"])
    assert sorted(table["p"]) == sorted(test.p.ravel())
    assert sorted(table["t"]) == sorted(test.t.ravel())
    first = table[(table["layer"] == 2) & (table["role"] == "system")]
    np.testing.assert_array_equal(first["p"], test.p[3, 3:18])


def test_noise_is_what_cells_do_not_tell_from_zero():
    scores = synthetic.attribution(synthetic.several(10))
    p = scores.cells().set_index(PLACE)["p"]
    noise = scores.noise(3)
    role = scores.positions("role")[3]
    real = role != ""
    assert noise.shape == (6, len(real))
    assert not noise[:, ~real].any()
    template = p.index.get_level_values("role") == "template"
    assert (~noise[:, real]).sum() == ((p < 0.05) & template).sum()
    assert noise[2, 0] == (p[1, 0, "template", 0, 0] >= 0.05)
    assert not noise[2:4, role == "template"].all()
    tokens = scores.noise(3, tokens=True)
    assert tokens.shape == real.shape


def test_spans_are_lined_up_and_tested_as_spans():
    scores = synthetic.spanned()  # questions of other lengths: 3 to 8 tokens
    effect = scores.data["effect"].values[0]
    test, table = max_t(effect), scores.cells()
    assert len(table) == effect[0].size
    assert (table["n"] == 8).all()
    ordered = table.sort_values("layer", kind="stable")
    for column in ("mean", "p"):
        np.testing.assert_allclose(ordered[column], getattr(test, column).ravel())
    asked = table[(table["role"] == "user") & (table["layer"] == 0)].iloc[0]
    assert (asked["index"], asked["span"]) == (0, "…")  # of several texts
    assert " helpful AI assistant" in table[table["role"] == "system"]["span"].iloc[0]
    # noise of a span is one verdict, at all of its tokens
    assert not scores.noise(3).any()
    scores.data["effect"].values[0, ::2, 1] *= -1
    veil, role = scores.noise(3), scores.positions("role")[3]
    assert veil[1, role != ""].all()
    assert not veil[[0, 2]].any()
    assert reliability(scores).cells == effect[0].size
    # some of the spans stand where they stood
    chosen = scores.sel(span=[3, 4]).cells().set_index(PLACE)
    whole = scores.cells().set_index(PLACE)
    np.testing.assert_allclose(chosen["mean"], whole.loc[chosen.index, "mean"])


def test_whole_spans_and_single_tokens_of_refined_ones_are_other_places():
    scores = synthetic.spanned()
    length = (scores.data["last"] - scores.data["first"]).values[:, 4] + 1
    data = scores.data.assign_coords(refined=(("prompt", "span"), np.zeros((8, 8), int)))
    data["refined"].values[::2, 4] = 1
    refined = replace(scores, data=data)
    asked = refined.cells().query("role == 'user' and layer == 0").set_index("refined")
    assert asked.loc[["no"], "n"].tolist() == [4]
    assert asked.loc[["yes"], "n"].sum() == length[::2].sum()


def test_few_prompts_are_not_tested():
    few = synthetic.attribution(synthetic.several(5))
    assert few.noise(0) is None
    assert few.cells()["p"].isna().all()


def test_places_are_counted_before_tokens_are_chosen():
    scores = synthetic.sweep(synthetic.several(9), controls=0)
    whole = scores.cells().set_index(PLACE)
    part = scores.sel(position=[4, 5, 24]).cells().set_index(PLACE)
    same = part[part["n"] == 9]
    assert len(same) >= 12
    np.testing.assert_allclose(same["mean"], whole.loc[same.index, "mean"])


def test_cells_of_gradients_at_the_embeddings():
    scores = synthetic.gradient(synthetic.several(7), method="gradient_x_input")
    table = scores.cells()
    assert "layer" not in table
    assert table["n"].sum() == np.isfinite(scores.token_effect()).sum()
    assert scores.noise(0).shape == scores.noise(0, tokens=True).shape
