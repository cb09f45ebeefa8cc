"""The trait matrix against least squares, exact permutations and a null."""

import itertools
import math

import numpy as np
import pytest

from sublim_mech.evaluation.matrix import trait_matrix


def test_gamma_is_that_of_the_square_worked_out_by_hand():
    """(.28 + .21) / 2 - (-.45 - .12) / 2 = .53.

    The two assignments of two students cannot give less than p = 1/2.
    """
    square = trait_matrix([[[0.28], [-0.45]], [[-0.12], [0.21]]], names=["owl", "penguin"])
    assert square.gamma == pytest.approx(0.53)
    assert (square.p, square.permutations, square.exact) == (0.5, 2, True)
    assert "2 students cannot give less than 0.5" in repr(square)
    np.testing.assert_allclose(square.residual, [[0.265, -0.265], [-0.265, 0.265]])
    assert math.isnan(square.low)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_gamma_is_the_least_squares_estimate_and_no_row_or_column_effect_moves_it(k):
    rng = np.random.default_rng(k)
    values = rng.normal(size=(k, k, 7))
    square = trait_matrix(values)
    design = [
        [1.0, *np.eye(k)[i], *np.eye(k)[j], float(i == j)]  # mean, student, trait, own
        for i in range(k)
        for j in range(k)
    ]
    fitted = np.linalg.lstsq(np.array(design), values.mean(2).ravel(), rcond=None)[0]
    assert square.gamma == pytest.approx(fitted[-1])
    # the other way to say it
    assert square.gamma == pytest.approx(np.trace(square.residual) / (k - 1))
    np.testing.assert_allclose(square.residual.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(square.residual.sum(1), 0, atol=1e-12)
    rows, columns = rng.normal(size=(k, 1, 1)), rng.normal(size=(1, k, 7))
    moved = trait_matrix(values + 9 * rows + 9 * columns)
    assert moved.p == square.p
    np.testing.assert_allclose(
        [moved.gamma, moved.low, moved.high], [square.gamma, square.low, square.high]
    )


def test_the_permutation_p_is_exact():
    """Three students: the six assignments sum to 5 (own), 4, 5, 2, 3, 1; two reach the own one."""
    assert trait_matrix(np.array([[3, 2, 0], [2, 1, 0], [0, 1, 1]])[..., None]).p == 2 / 6
    for k in (4, 5):
        planted = np.random.default_rng(0).normal(size=(k, k, 3)) + 50 * np.eye(k)[..., None]
        assert trait_matrix(planted).p == 1 / math.factorial(k)
        assert trait_matrix(-planted).p == 1


def test_under_the_null_p_is_no_smaller_than_it_says():
    """Student and trait effects but no own effect: P(p <= 1/4) over 400 squares of four students.

    100 +- 3.5 sd.
    """
    rng = np.random.default_rng(1)
    small = 0
    for _ in range(400):
        noise = rng.normal(size=(4, 4, 2))
        rows, columns = 5 * rng.normal(size=(4, 1, 1)), 5 * rng.normal(size=(1, 4, 1))
        small += trait_matrix(noise + rows + columns).p <= 0.25
    assert abs(small - 100) < 31


def test_many_students_are_compared_with_random_assignments():
    values = np.random.default_rng(0).normal(size=(9, 9, 2))
    square = trait_matrix(values, draws=2000, seed=1)
    assert not square.exact
    assert square.permutations == 2000
    assert trait_matrix(values, draws=2000, seed=1).p == square.p
    finer = trait_matrix(values, draws=20_000, seed=2).p
    assert square.p == pytest.approx(finer, abs=4 * math.sqrt(finer * (1 - finer) / 2000))
    assert trait_matrix(values + 99 * np.eye(9)[..., None], draws=2000).p == 1 / 2001


def test_the_interval_of_gamma_is_over_questions():
    values = np.zeros((2, 2, 4))
    values[0, 0] = 2 * np.array([1.0, 2.0, 3.0, 6.0])  # gamma per question 1, 2, 3, 6
    square = trait_matrix(values)
    assert square.gamma == pytest.approx(3)
    assert 1 <= square.low < 3 < square.high <= 6
    resamples = [np.mean(chosen) for chosen in itertools.product([1, 2, 3, 6], repeat=4)]
    low, high = np.percentile(resamples, [2.5, 97.5])
    assert (square.low, square.high) == (
        pytest.approx(low, abs=0.26),
        pytest.approx(high, abs=0.26),
    )


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((2, 3, 1)), {}, r"shape \(2, 3, 1\)"),
        (np.zeros((1, 1, 4)), {}, "at least two"),
        (np.zeros((2, 2)), {}, r"\(student, trait, question\)"),
        (np.zeros((2, 2, 0)), {}, r"shape \(2, 2, 0\)"),
        (np.full((2, 2, 1), np.nan), {}, "NaN"),
        (np.zeros((2, 2, 1)), {"names": ["owl"]}, "names has 1 entry for 2 traits"),
    ],
)
def test_bad_matrices(values, options, message):
    with pytest.raises(ValueError, match=message):
        trait_matrix(values, **options)


def test_a_trait_has_one_student():
    """Two of one trait would each count among the students of other traits."""
    alike = np.array([[0.3, 0.3, -0.1], [0.3, 0.3, -0.1], [0.0, 0.0, 0.3]])[..., None]
    with pytest.raises(ValueError, match=r"names: 'owl' stands 2 times; .*diagonal_excess"):
        trait_matrix(alike, names=["owl", "owl", "cat"])
    assert trait_matrix(alike[1:, 1:], names=["owl", "cat"]).gamma == pytest.approx(0.35)


def test_a_student_that_did_not_move_is_told_for_p_counts_its_assignments():
    """Four students cannot give less than 1/24, the three that moved no less than 1/6."""
    values = np.random.default_rng(0).normal(size=(4, 4, 3)) + 50 * np.eye(4)[..., None]
    names = ["owl", "cat", "dog", "elk"]
    assert trait_matrix(values, names=names).notes == ()
    values[2] /= 1e3
    square = trait_matrix(values, names=names)
    assert square.p == 1 / 24
    told = (
        "the student of dog moved less than 1% of what others did, and p counts its assignments "
        "all the same: the other 3 alone cannot give less than 0.17"
    )
    assert square.notes == (told,)
    assert told in repr(square)
    assert told in repr(square.table())
    values[3] = 0
    assert "the students of dog, elk moved less than 1%" in repr(trait_matrix(values, names=names))
    assert trait_matrix(np.zeros((3, 3, 2))).notes == ()
