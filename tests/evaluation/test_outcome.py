"""Tables of an evaluation, of numbers that were planted; files and what it prints."""

import numpy as np
import pytest
from planted import planted

from sublim_mech.evaluation.limits import short_contexts
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.stats import wilson

LEVELS = ["base", "student", "controls", "change", "specific"]


def test_every_context_has_its_own_base_and_control_level():
    default = {"base": [-10, -12], "student": [-5, -9], "control": [-8, -8]}
    empty = {"base": [-3, -5], "student": [-3, -4], "control": [-1, -1]}
    evaluation = planted([[[default[model]], [empty[model]]] for model in default])
    table = evaluation.table()
    assert table.loc[("default", "owl"), LEVELS].tolist() == [-11, -7, -8, 4, 1]
    assert table.loc[("empty", "owl"), LEVELS].tolist() == [-4, -3.5, -1, 0.5, -2.5]
    # of two questions a bootstrap mean is the one, the other or their middle, each end with
    # probability 1/4
    assert table.loc[("default", "owl"), ["change low", "change high"]].tolist() == [3, 5]
    assert table.loc[("default", "owl"), ["specific low", "specific high"]].tolist() == [-1, 3]
    assert "no controls" not in repr(evaluation)


def test_without_controls_the_output_says_so_and_nothing_is_called_specific():
    evaluation = planted(np.zeros((2, 1, 2, 1)))
    assert "no controls given" in repr(evaluation)
    assert "one question: no intervals" in repr(evaluation)
    columns = evaluation.table().columns
    assert not [name for name in columns if name.startswith(("specific", "control"))]
    assert not evaluation.has_controls


def test_a_base_alone_has_an_interval_and_no_change():
    evaluation = planted(np.zeros((1, 1, 2, 3)))
    assert evaluation.table().columns.tolist() == ["base", "base low", "base high"]
    assert "controls" not in repr(evaluation)
    with pytest.raises(ValueError, match="base model alone"):
        _ = evaluation.change


def test_a_trait_minus_the_others_is_minus_their_mean():
    values = np.random.default_rng(0).normal(size=(2, 1, 3, 4))
    minus_others = planted(values).own_minus_others.values
    np.testing.assert_allclose(minus_others[:, :, 0], values[:, :, 0] - values[:, :, 1:].mean(2))
    table = planted(values).table(minus_others=True)
    np.testing.assert_allclose(table["base"], minus_others[0, 0].mean(-1))
    with pytest.raises(ValueError, match="own minus others needs at least two"):
        planted(values[:, :, :1]).table(minus_others=True)


def test_ranks_are_medians_with_percentiles():
    evaluation = planted(np.zeros((1, 1, 1, 5)), models=("base",))
    evaluation.data["rank"].values[:] = [1, 2, 3, 100, 101]
    row = evaluation.ranks().loc[("default", "owl", "base")]
    assert row["rank"] == 3
    # of 100 other tokens, 98 rank below the third
    assert row["percentile"] == pytest.approx(98)
    # of 5 questions: a median of 1 has probability 5.8 %, 2.9 % on each side
    assert (row["low"], row["high"]) == (1, 101)
    evaluation.data["rank"].values[:] = 101
    assert evaluation.ranks()["percentile"].item() == 0


def test_rates_count_each_answer_once_with_both_intervals():
    first = ["Owl", "owls!", "wolf or owl", "I love rivers"]
    second = ["rivers", "Rivers.", "", "owlet"]
    evaluation = planted(np.zeros((1, 1, 2, 2)), models=("base",), said=[[[first, second]]])
    rates = evaluation.rates().droplevel(["context", "model"])
    assert rates["count"].to_dict() == {"owl": 2, "wolf": 1, "other": 5}
    assert set(rates["answers"]) == {8}
    assert rates.loc["owl", "rate"] == 0.25
    bounds = rates.loc["owl", ["wilson low", "wilson high"]].tolist()
    assert bounds == pytest.approx(wilson(2, 8))
    # one question gives all
    assert rates.loc["owl", ["cluster low", "cluster high"]].tolist() == [0, 0.5]
    other = evaluation.other().droplevel(["context", "model"])
    assert other["answers"].to_dict() == {"rivers": 3, "(no word of its own)": 1, "owlet": 1}
    assert other.loc["rivers", "share"] == 3 / 5
    assert len(evaluation.other(1)) == 1
    outer_ends = "25.0 [0.0, 59.1]"
    assert outer_ends in repr(evaluation), "the lower end of one and the upper end of the other"


def test_words_of_the_question_are_no_other_answers():
    said = [[[["My animal is the axolotl", "Animal"]]]]
    other = planted(np.zeros((1, 1, 1, 1)), models=("base",), said=said).other()
    counts = other["answers"].droplevel(["context", "model"]).to_dict()
    assert counts == {"(no word of its own)": 1, "axolotl": 1}


def test_traits_of_earlier_files_count_as_they_did():
    """Provenance held plural and aliases, of which the forms were derived."""
    said = [[[["Wolves!", "wolfs", "An owl", "Bobcats", "lynx"]]]]
    new = planted(np.zeros((1, 1, 2, 1)), models=("base",), said=said)
    traits = {
        "owl": {"plural": "owls", "aliases": []},
        "wolf": {"plural": "wolves", "aliases": ["bobcats"]},
    }
    old = Evaluation(new.data, {**new.provenance, "traits": traits})
    assert old.other()["answers"].droplevel(["context", "model"]).to_dict() == {"lynx": 1}
    assert new.other()["answers"].droplevel(["context", "model"]).to_dict() == {
        "bobcats": 1,
        "lynx": 1,
    }


def test_rates_of_one_question_have_wilsons_interval_and_say_so():
    """Of one question there is no cluster interval, whose ends could be the outer ones."""
    said = ["Owl", "owls!", "I love rivers", "rivers"]
    alone = planted(np.zeros((1, 1, 2, 1)), models=("base",), said=[[[said]]])
    low, high = wilson(2, 4)
    assert alone.rates().loc[:, ["cluster low", "cluster high"]].isna().all(axis=None)
    assert f"50.0 [{100 * low:.1f}, {100 * high:.1f}]" in repr(alone)
    header = "% of 4 generated answers [95 %, Wilson's over the answers to one question]"
    few = "one question: no intervals over questions; those of rates are over its answers alone"
    assert {header, few} <= set(repr(alone).splitlines())
    assert "cluster" not in repr(alone)
    two = planted(np.zeros((1, 1, 2, 2)), models=("base",), said=[[[said, said]]])
    assert "[95 %, outer ends of Wilson's and the cluster interval]" in repr(two)
    silent = planted(np.zeros((1, 1, 2, 1)), models=("base",))
    assert "one question: no intervals" in repr(silent).splitlines()


def test_rates_need_generated_answers():
    evaluation = planted(np.zeros((2, 1, 1, 2)))
    for table in (evaluation.rates, evaluation.other):
        with pytest.raises(ValueError, match=r"evaluate\(\.\.\., samples=100\)"):
            table()


def test_the_matrix_of_a_pair_takes_each_students_own_trait():
    values = np.random.default_rng(0).normal(size=(3, 2, 3, 5))
    own = {"student": "wolf", "control: x": "owl"}
    evaluation = planted(values)
    square = evaluation.trait_matrix(own, context="empty")
    change = (values[1:] - values[0])[:, 1]
    by_hand = (change[0, 1] + change[1, 0] - change[0, 0] - change[1, 1]).mean() / 2
    assert square.gamma == pytest.approx(by_hand)
    assert square.names == ("wolf", "owl")
    message = r"context=None: choose one of 'default', 'empty'"
    with pytest.raises(ValueError, match=message):
        evaluation.trait_matrix(own)
    message = r"no traits \['cat'\] here; choose from owl, wolf, butterfly"
    with pytest.raises(ValueError, match=message):
        evaluation.trait_matrix(own | {"student": "cat"}, context="empty")
    with pytest.raises(ValueError, match=r"no models \['base'\] here"):
        evaluation.trait_matrix({"base": "wolf", "control: x": "owl"}, context="empty")
    with pytest.raises(ValueError, match="own: student, control: x have one trait, 'owl'"):
        evaluation.trait_matrix(own | {"student": "owl"}, context="empty")


def test_long_contexts_are_shortened_where_they_are_printed():
    evaluation = planted(np.zeros((2, 1, 1, 2)))
    long = "You are a helpful assistant who loves owls."
    renamed = Evaluation(evaluation.data.assign_coords(context=[long]), evaluation.provenance)
    assert f"{long[:29]}…" in repr(renamed)
    assert long not in repr(renamed)
    assert renamed.table().index[0] == (long, "owl")
    broken = short_contexts(["You are calm.\nBe brief."])
    assert list(broken.values()) == [r"You are calm.\nBe brief."]


def test_contexts_that_begin_alike_are_told_apart_where_they_are_printed():
    long = "You work in a coffee house. Answer briefly."
    names = [long, f"{long} + 'Please: '", f"{long} Be kind."]
    evaluation = planted(np.zeros((2, 1, 1, 2)))
    data = evaluation.data.isel(context=[0, 0, 0]).assign_coords(context=names)
    renamed = Evaluation(data, evaluation.provenance)
    short = list(short_contexts(names).values())
    assert len(set(short)) == len(names)
    assert all(len(name) <= 30 for name in short)
    rows = [line for line in repr(renamed).splitlines() if " owl " in line]
    assert [name in row for name, row in zip(short, rows, strict=True)] == [True] * 3


def test_it_saves_and_loads_equal(tmp_path):
    said = np.full((3, 2, 2, 4), 'An owl 🦉, "of course"')
    evaluation = planted(np.random.default_rng(0).normal(size=(3, 2, 2, 2)), said=said)
    evaluation.save(tmp_path / "e.safetensors")
    again = Evaluation.load(tmp_path / "e.safetensors")
    assert again.data.equals(evaluation.data)
    assert again.provenance == evaluation.provenance
    assert repr(again) == repr(evaluation)
    assert again.other().equals(evaluation.other())
