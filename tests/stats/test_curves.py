"""Traits at equal held-out KL: closed forms of straight curves, and no word beyond their ends."""

import numpy as np
import pytest

from sublim_mech.stats import Curve, equal_kl, nested_interval


def straight(at_one, per_decade, low=1e-4, high=1e-2, points=5):
    """A trait that is linear in log KL."""
    kl = np.geomspace(low, high, points)
    return Curve(kl, at_one + per_decade * np.log10(kl))


def test_parallel_lines_differ_by_their_distance_wherever_their_points_are():
    first = [straight(1.0 + x, -0.2, points=4) for x in (0.0, 0.1, 0.2)]
    second = [straight(0.7, -0.2, 2e-4, 5e-3, points=7) for _ in first]
    found = equal_kl(first, second)
    assert (found.low_kl, found.high_kl) == pytest.approx((2e-4, 5e-3))
    assert found.by_pair == pytest.approx((0.3, 0.4, 0.5))
    expected = nested_interval(np.array([0.3, 0.4, 0.5]), [0, 1, 2])
    assert found.difference.mean == pytest.approx(expected.mean)
    assert found.difference.low == pytest.approx(expected.low)


def test_the_mean_of_crossing_lines_is_that_in_the_middle_of_log_kl():
    found = equal_kl([straight(0.0, 1.0)], [straight(0.0, -1.0)])
    assert found.by_pair[0] == pytest.approx(2 * np.log10(1e-3))
    at = equal_kl([straight(0.0, 1.0)], [straight(0.0, -1.0)], at=1e-3)
    assert at.by_pair[0] == pytest.approx(found.by_pair[0])


def test_exchanging_the_two_turns_the_sign():
    first, second = [straight(1.0, -0.2), straight(1.1, 0.3)], [straight(0.7, -0.2)] * 2
    one, other = equal_kl(first, second), equal_kl(second, first)
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert one.difference.low == pytest.approx(-other.difference.high)


def test_points_in_between_on_the_line_change_nothing():
    few, many = straight(1.0, -0.2, points=2), straight(1.0, -0.2, points=30)
    other = straight(0.4, 0.5, 3e-4, 4e-3)
    assert equal_kl([few], [other]).by_pair == pytest.approx(equal_kl([many], [other]).by_pair)


def test_students_of_one_kl_are_one_point_and_order_is_none():
    curve = Curve(np.array([2e-3, 1e-3, 2e-3]), np.array([1.0, 5.0, 3.0]))
    assert curve.kl.tolist() == [1e-3, 2e-3]
    assert curve.trait.tolist() == [5.0, 2.0]


def test_nothing_is_said_beyond_the_ends():
    apart = equal_kl([straight(1.0, 0.0, 1e-4, 1e-3)], [straight(0.0, 0.0, 2e-3, 1e-2)])
    assert apart.difference is None
    assert np.isnan(apart.low_kl)
    assert "no held-out KL is reached by both kinds" in repr(apart)
    beyond = equal_kl([straight(1.0, 0.0)], [straight(0.0, 0.0)], at=0.1)
    assert beyond.difference is None
    assert np.isnan(straight(1.0, 0.0).at(np.array([0.1]))).all()


def test_each_pair_is_compared_where_both_of_its_curves_are():
    """Data sets whose students are at other KLs have nothing in common but their difference."""
    near, far = (1e-4, 1e-3), (2e-3, 1e-2)
    first = [straight(0.5, -0.2, *near), straight(0.8, -0.2, *far), straight(9.0, -0.2, *near)]
    second = [straight(0.1, -0.2, *near), straight(0.2, -0.2, *far), straight(0.0, -0.2, *far)]
    found = equal_kl(first, second)
    assert found.by_pair[:2] == pytest.approx((0.4, 0.6))
    assert np.isnan(found.by_pair[2])
    assert found.difference.mean == pytest.approx(0.5)
    assert (found.low_kl, found.high_kl) == pytest.approx((1e-4, 1e-2))
    assert "1 of 3 pairs reach none and are left out" in repr(found)
    assert equal_kl(first[:2], second[:2], at=5e-4).difference is None


def test_training_seeds_share_their_data_set():
    first = [straight(x, 0.0) for x in (1.0, 1.2, 2.0, 2.2)]
    found = equal_kl(first, [straight(0.0, 0.0)] * 4, data_set=["a", "a", "b", "b"])
    assert (found.difference.data_sets, found.difference.runs) == (2, 4)
    assert found.difference.standard_error == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: equal_kl([straight(1, 0)], []), "first has 1 curve, second 0"),
        (lambda: equal_kl([straight(1, 0)], [straight(1, 0)], at=0.0), "at=0.0"),
        (lambda: equal_kl([straight(1, 0)], [straight(1, 0)], data_set=[1, 2]), "2 entries for 1"),
        (lambda: Curve(np.array([0.0, 1.0]), np.array([1.0, 2.0])), "kl must be above 0"),
        (lambda: Curve(np.array([1.0]), np.array([1.0, 2.0])), "one number each"),
        (lambda: Curve(np.array([1.0]), np.array([np.nan])), "NaN or infinite"),
    ],
)
def test_what_is_no_curve_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
