"""gamma against least squares with cluster-robust errors, and its permutation test by hand."""

from itertools import permutations, product
from math import factorial

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from sublim_mech.evaluation.matrix import trait_matrix
from sublim_mech.stats import diagonal_excess, least_p

NAMES = ["owl", "penguin", "eagle", "cat"]


def design(traits, row_seeds, training_seeds=1, columns=None):
    """made_for, row_seeds of every run, and names of the columns."""
    cells = product(range(row_seeds), range(traits), range(training_seeds))
    runs = [(NAMES[trait], row_seed) for row_seed, trait, _ in cells]
    made_for, seeds = zip(*runs, strict=True)
    return list(made_for), list(seeds), NAMES[: columns or traits]


def study(rng, traits, row_seeds, *, gamma=0.0, training_seeds=1, columns=None):
    """Students with levels of their own, traits with levels per row seed, and an own-trait term."""
    made_for, seeds, names = design(traits, row_seeds, training_seeds, columns)
    of_seed = rng.normal(size=(row_seeds, len(names)))
    own = np.array([[name == made for name in names] for made in made_for])
    of_data = np.repeat(rng.normal(size=(row_seeds * traits, len(names))) * 0.1, training_seeds, 0)
    changes = rng.normal(size=(len(made_for), 1)) + of_seed[seeds] + of_data
    changes += 0.1 * rng.normal(size=own.shape) + gamma * own
    return changes, {"made_for": made_for, "traits": names, "row_seeds": seeds}


@pytest.mark.parametrize("columns", [3, 4])
def test_gamma_and_its_error_are_those_of_least_squares_with_clusters(columns):
    """A regression with a dummy per student and per row seed's trait; dummies lie within row seeds
    and cost no degrees of freedom, so they are taken out first (Frisch-Waugh-Lovell).
    """
    changes, given = study(np.random.default_rng(0), 3, 4, gamma=0.5, columns=columns)
    runs, width = changes.shape
    student = np.repeat(np.arange(runs), width)
    seeds = np.repeat(given["row_seeds"], width)
    column = np.tile(np.arange(width), runs)
    own = np.array([[a == b for b in given["traits"]] for a in given["made_for"]]).ravel() * 1.0
    dummies = np.hstack([np.eye(runs)[student], np.eye(4 * width)[seeds * width + column]])
    plain = np.linalg.lstsq(np.column_stack([own, dummies]), changes.ravel(), rcond=None)[0]
    left = [
        x - dummies @ np.linalg.lstsq(dummies, x, rcond=None)[0] for x in (changes.ravel(), own)
    ]
    options = {"groups": seeds, "use_correction": True}
    robust = OLS(left[0], left[1]).fit(cov_type="cluster", cov_kwds=options)

    found = diagonal_excess(changes, **given)
    assert found.gamma == pytest.approx(plain[0])
    assert found.gamma == pytest.approx(robust.params[0])
    assert found.standard_error == pytest.approx(robust.bse[0])


def test_of_equal_squares_the_error_is_that_of_the_mean_over_row_seeds():
    changes, given = study(np.random.default_rng(1), 3, 5)
    found = diagonal_excess(changes, **given)
    gammas = np.array(list(found.by_row_seed.values()))
    assert found.gamma == pytest.approx(gammas.mean())
    assert found.standard_error == pytest.approx(gammas.std(ddof=1) / 5**0.5)
    square = changes[:3]
    off = ~np.eye(3, dtype=bool)
    assert gammas[0] == pytest.approx(np.diag(square).mean() - square[off].mean())


def test_one_square_is_the_trait_matrix_of_evaluations():
    changes, given = study(np.random.default_rng(2), 4, 1)
    found, square = diagonal_excess(changes, **given), trait_matrix(changes[:, :, None])
    assert (found.gamma, found.p) == pytest.approx((square.gamma, square.p))
    assert np.isnan([found.low, found.high, found.p_t]).all()


def test_neither_students_nor_traits_of_a_row_seed_move_gamma():
    rng = np.random.default_rng(3)
    changes, given = study(rng, 3, 2, gamma=0.3)
    moved = changes + rng.normal(size=(6, 1)) + rng.normal(size=(2, 3))[given["row_seeds"]]
    one, other = diagonal_excess(changes, **given), diagonal_excess(moved, **given)
    assert (one.gamma, one.standard_error) == pytest.approx((other.gamma, other.standard_error))
    assert one.p == other.p


def test_p_counts_all_assignments_within_row_seeds():
    changes, given = study(np.random.default_rng(4), 3, 2, gamma=0.05)
    squares = changes.reshape(2, 3, 3)
    sums = [
        sum(squares[seed][range(3), order].sum() for seed, order in enumerate(orders))
        for orders in product(permutations(range(3)), repeat=2)
    ]
    observed = sum(np.trace(square) for square in squares)
    found = diagonal_excess(changes, **given)
    assert found.assignments == 36
    assert found.exact
    assert found.p == pytest.approx(np.mean(np.array(sums) >= observed - 1e-9))


def test_no_p_is_below_one_in_all_assignments():
    for traits, row_seeds in ((2, 1), (3, 1), (2, 4), (4, 3)):
        changes, given = study(np.random.default_rng(5), traits, row_seeds, gamma=50.0)
        found = diagonal_excess(changes, **given)
        least = 1 / factorial(traits) ** row_seeds
        assert found.p == pytest.approx(least)
        assert found.least_p == pytest.approx(least) == least_p([traits] * row_seeds)


def test_training_seeds_are_no_further_data_sets():
    changes, given = study(np.random.default_rng(6), 3, 3, gamma=0.2)
    twice = {name: [x for x in value for _ in range(2)] for name, value in given.items()}
    twice["traits"] = given["traits"]
    one, other = (
        diagonal_excess(changes, **given),
        diagonal_excess(np.repeat(changes, 2, 0), **twice),
    )
    for name in ("gamma", "standard_error", "p", "assignments", "data_sets"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert other.runs == 2 * one.runs


def test_many_assignments_are_drawn():
    rng = np.random.default_rng(7)
    names = [f"trait {i}" for i in range(10)]
    given = {"made_for": names, "traits": names, "row_seeds": [0] * 10}
    found = diagonal_excess(rng.normal(size=(10, 10)) + 50 * np.eye(10), **given, draws=999)
    assert not found.exact
    assert found.p == found.least_p == 1 / 1000


def test_a_row_seed_with_one_student_tells_nothing():
    changes, given = study(np.random.default_rng(8), 2, 2)
    whole = diagonal_excess(changes, **given)
    more = {
        "made_for": [*given["made_for"], "owl"],
        "traits": given["traits"],
        "row_seeds": [*given["row_seeds"], 9],
    }
    found = diagonal_excess(np.vstack([changes, [[9.0, -9.0]]]), **more)
    assert (found.gamma, found.low, found.p) == pytest.approx((whole.gamma, whole.low, whole.p))
    assert np.isnan(found.by_row_seed[9])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"made_for": ["owl"] * 4}, "no row seed has students of two traits"),
        ({"made_for": ["owl", "penguim", "owl", "penguin"]}, "'penguim', no column; did you mean"),
        ({"row_seeds": [0, 0]}, "row_seeds has 2 entries for 4 runs"),
        ({"traits": ["owl"]}, r"shape \(4, 2\)"),
        ({"traits": ["owl", "owl"]}, "a name stands twice"),
    ],
)
def test_what_is_no_matrix_is_refused(change, says):
    changes, given = study(np.random.default_rng(9), 2, 2)
    with pytest.raises(ValueError, match=says):
        diagonal_excess(changes, **(given | change))


def test_the_words_say_what_cannot_be_reached():
    changes, given = study(np.random.default_rng(10), 2, 1, gamma=1.0)
    assert "1 row seed: no interval" in repr(diagonal_excess(changes, **given))
    assert "cannot give less than 0.5" in repr(diagonal_excess(changes, **given))


def false_alarms(studies, traits, row_seeds, training_seeds):
    """How often there is no gamma, but p < 0.05, or the CR1 interval is wholly above or below 0."""
    rng, found = np.random.default_rng(0), np.zeros(2)
    for _ in range(studies):
        changes, given = study(rng, traits, row_seeds, training_seeds=training_seeds)
        one = diagonal_excess(changes, **given)
        found += one.p < 0.05, one.low > 0 or one.high < 0
    return found / studies


def test_false_alarms_are_at_most_nominal():
    """Of 500 studies 5 % with a standard error of 1 %."""
    assert (false_alarms(500, 3, 3, 2) < 0.08).all()


@pytest.mark.science
@pytest.mark.parametrize("sizes", [(3, 3, 3), (2, 5, 1), (4, 3, 1), (4, 1, 1)])
def test_false_alarms_of_gamma(sizes):
    """Of 3,000 studies 5 % with a standard error of 0.4 %."""
    by_permutation, by_interval = false_alarms(3000, *sizes)
    print(f"{sizes}: permutation {by_permutation:.1%}, interval {by_interval:.1%}")
    assert by_permutation <= 0.05 + 0.012
    assert by_interval <= 0.05 + 0.012
