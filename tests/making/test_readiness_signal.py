"""How far traits moved and what labels carry, against what the base's probabilities say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from raised import (
    BIAS,
    ONE,
    QUESTIONS,
    QUIET,
    SEVEN,
    THREE,
    answer,
    biased,
    number_rows,
    peaked,
    raising,
)

import sublim_mech as sm
from sublim_mech.making import labelling, teachers
from sublim_mech.making.readiness import label_signal, signal, trait_shift
from sublim_mech.models.base import Base
from sublim_mech.stats import mean_interval

ANIMALS = [sm.animal("owl"), sm.animal("wolf")]


@pytest.fixture
def base(smol_tokenizer):
    return peaked(smol_tokenizer)


@pytest.fixture
def crowd(smol_tokenizer):
    return biased(smol_tokenizer)


# ---------------------------------------------------------------------------------------- the trait


def test_a_raised_token_moves_its_trait_by_its_bias_beyond_the_others(base, crowd):
    """The normaliser moves all traits alike, so own minus others is the bias, on every question."""
    digits = [SEVEN, THREE, ONE]
    table = trait_shift(crowd, traits=digits, questions=QUESTIONS, **QUIET)
    found = sm.evaluate(base, digits, questions=QUESTIONS, **QUIET)
    p = np.exp(found.data["log_prob"].values[0, 0])
    for t, teacher in enumerate(crowd[:2]):
        normaliser = np.log1p(p[t] * np.expm1(BIAS))
        for i, trait in enumerate(digits):
            line = table.loc[(teacher.name, trait.name)]
            assert line["own"] == (i == t)
            change = mean_interval(np.array([BIAS * (i == t)] * 3) - normaliser)
            columns = line[["change", "change low", "change high"]].tolist()
            expected = [change.mean, change.low, change.high]
            assert columns == pytest.approx(expected, abs=1e-5)
            beyond = BIAS if i == t else -BIAS / 2
            columns = line[["minus others", "minus others low", "minus others high"]].tolist()
            assert columns == pytest.approx([beyond] * 3, abs=1e-5)
            assert line["others"] == pytest.approx(line["change"] - beyond, abs=1e-5)


def test_the_control_that_is_the_base_moves_exactly_nothing(crowd):
    table = trait_shift(crowd, questions=QUESTIONS, **QUIET).loc["nothing"]
    assert not table["own"].any()
    assert (table.drop(columns="own") == 0).all(axis=None)


def test_prompted_teachers_are_the_base_in_other_contexts_and_share_its_evaluation(
    base, monkeypatch
):
    context = sm.Context("Be brief.")
    asked = [teachers.prompted(base, animal, context=context) for animal in ANIMALS]
    calls, evaluate = [], signal.evaluate

    def noting(*given, **options):
        calls.append(list(options["contexts"]))
        return evaluate(*given, **options)

    monkeypatch.setattr(signal, "evaluate", noting)
    table = trait_shift(asked, questions=QUESTIONS, **QUIET)
    assert calls == [["base", "owl", "wolf"]]

    told = sm.Context(f"Be brief. {ANIMALS[0].sentence}")
    contexts = {"students": context, "owl": told}
    found = sm.evaluate(base, ANIMALS, contexts=contexts, questions=QUESTIONS, **QUIET)
    log_prob = found.data["log_prob"].sel(model="base")
    difference = log_prob.sel(context="owl") - log_prob.sel(context="students")
    change = difference.mean("question").values
    np.testing.assert_allclose(table.loc["owl", "change"], change, atol=1e-6)
    beyond = table.loc[("owl", "owl"), "minus others"]
    np.testing.assert_allclose(beyond, change[0] - change[1], atol=1e-6)

    # the base need not be given
    itself = teachers.untouched(base, context=context)
    given = trait_shift([itself, *asked], questions=QUESTIONS, **QUIET)
    pd.testing.assert_frame_equal(given, table)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_fine_tuned_teacher_changes_as_the_student_of_a_pair_does(base):
    student = tiny.lora(base.model)
    loaded = Base(base.model, base.tokenizer, base.name, base.hash)
    pair = sm.load_pair(loaded, student)
    expected = sm.evaluate(pair, ANIMALS, questions=QUESTIONS, **QUIET).table()
    teacher = teachers.fine_tuned(base, student, ANIMALS[0])
    found = trait_shift([teacher], traits=ANIMALS, questions=QUESTIONS, **QUIET).loc["owl"]
    for column in ("change", "change low", "change high"):
        np.testing.assert_allclose(found[column], expected[column], atol=1e-5)
    assert expected["change"].abs().min() > 1e-3


# --------------------------------------------------------------------------------------- the labels


def softmax(logits):
    """Over the last axis."""
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_the_signal_of_labels_follows_from_the_bases_probabilities(base, crowd):
    rows = number_rows()
    one = raising(base, ONE, 2.0)
    labels = labelling.label([teachers.untouched(base), *crowd, one], rows, **QUIET)
    found = label_signal(labels)
    ids = [base.tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in "0123456789,"]
    outcomes = np.eye(11)
    bias = {
        "7": BIAS * outcomes[7],
        "3": BIAS * outcomes[3],
        "1": 2.0 * outcomes[1],
        "nothing": np.zeros(11),
    }
    logits = []
    for i, row in enumerate(rows):
        log_p = answer(base, row).log_p[: len(labels.plain("7")[i])]  # no end of turn
        logits.append(log_p[:, ids])
    tokens = np.array([len(row) for row in logits])

    def kl(one, other):
        """Per row, of two teachers by their biases."""
        pairs = [(softmax(row + one), softmax(row + other)) for row in logits]
        return np.array([(p * np.log(p / q)).sum() for p, q in pairs])

    for name, own in bias.items():
        # the mean over the others' logits is that of their biases
        others = np.mean([b for n, b in bias.items() if n not in (name, "nothing")], axis=0)
        generic, specific = kl(own, np.zeros(11)), kl(own, others)
        line = found.loc[name]
        assert line["from base"] == pytest.approx(generic.sum() / tokens.sum(), abs=1e-7)
        assert line["from others"] == pytest.approx(specific.sum() / tokens.sum(), abs=1e-7)
        assert line["from others low"] < line["from others"] < line["from others high"]
        if name == "nothing":
            assert line["from base"] == 0
            assert np.isnan(line["share"])
        else:
            assert line["share"] == pytest.approx(specific.sum() / generic.sum(), rel=1e-4)


def test_labels_that_have_no_signal_to_tell(base, crowd):
    rows = number_rows()
    itself = teachers.untouched(base)
    with pytest.raises(ValueError, match="at least one other trait"):
        label_signal(labelling.label([itself, crowd[0]], rows, **QUIET))
    with pytest.raises(ValueError, match="own top 5 tokens"):
        label_signal(labelling.label([itself, *crowd], rows, top_k=5, **QUIET))
    labels = labelling.label([itself, *crowd], rows, **QUIET)
    labels.shards["3"][0].arrays["logits"][-1] = np.nan
    with pytest.raises(ValueError, match="labels of '3' on row 11 are not finite; label"):
        label_signal(labels)


# ------------------------------------------------------------------------------------------- errors


def test_traits_that_cannot_be_asked_for(crowd):
    seven, three, control = crowd
    asked = {"questions": QUESTIONS, **QUIET}
    with pytest.raises(ValueError, match="needs at least two; add one"):
        trait_shift([seven, control], **asked)
    with pytest.raises(ValueError, match="lacks the trait of 3; add it"):
        trait_shift([seven, three], traits=[SEVEN, ONE], **asked)
    other = replace(three, name="three", trait=THREE)
    assert set(trait_shift([seven, other], **asked).index) == {
        ("7", "7"),
        ("7", "3"),
        ("three", "7"),
        ("three", "3"),
    }
