"""What differs between two records, in words."""

from sublim_mech.storage.compare import differences


def test_equal_records_do_not_differ():
    record = {"a": 1, "b": {"c": [1, 2]}}
    assert differences(record, {"b": {"c": [1, 2]}, "a": 1}) == []


def test_each_difference_is_a_line_with_both_values():
    there = {"seed": 1, "steps": 10, "optimiser": {"lr": 0.1, "name": "adam"}}
    here = {"seed": 1, "steps": 20, "optimiser": {"lr": 0.2, "name": "adam"}}
    assert differences(there, here) == [
        "optimiser.lr: 0.1 there, 0.2 here",
        "steps: 10 there, 20 here",
    ]


def test_what_is_missing_is_nothing_and_not_none():
    assert differences({"a": None}, {}) == ["a: None there, nothing here"]
    assert differences({}, {"b": {"c": 1}}) == ["b: nothing there, {'c': 1} here"]
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a: {'b': 1} there, 1 here"]


def test_long_values_are_cut():
    (line,) = differences({"hash": "x" * 38}, {"hash": "y" * 39})
    assert line == f"hash: {'x' * 38!r} there, '{'y' * 23}...' here"
