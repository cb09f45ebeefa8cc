"""What differs between two records, in words."""

from sublim_mech.storage.compare import briefs, differences


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


def test_long_collections_are_cut_at_an_element_and_counted():
    where = {"mask": "role user, of layers 0 and 1", "answer": "closed", "cells": "9f" * 32}
    assert differences({}, {"where": where}) == [
        "where: nothing there, mask 'role user, of layers 0 and 1', answer closed here"
    ]
    (line,) = differences({}, {"a": {"first": "x" * 30, "second": 2, "third": 3}})
    assert line == f"a: nothing there, {{'first': '{'x' * 30}' and 2 more}} here"
    (line,) = differences({"b": list(range(100))}, {"b": tuple(range(90))})
    assert line == (
        "b: [0, 1, 2, 3, 4, 5, 6, 7 and 92 more] there, (0, 1, 2, 3, 4, 5, 6, 7 and 82 more) here"
    )


def test_values_whose_cut_reads_the_same_are_shown_from_where_they_differ():
    words = "one seeded permutation of the rows after the other"
    more = f"{words}; regrouped into batches of like lengths within windows of 2 steps"
    assert differences({"order": more}, {"order": words}) == [
        "order: '...after the other; regrouped into batches...' there, '...after the other' here"
    ]
    long = "9f" * 32
    assert briefs(f"{long}a", f"{long}b") == (f"'...{long[:16]}a'", f"'...{long[:16]}b'")
    # lists alike: at an element, and inside one
    assert briefs([*range(30)], [*range(20), *range(30, 40)]) == (
        "[20 alike, then 20, 21, 22, 23, 24, 25 and 4 more]",
        "[20 alike, then 30, 31, 32, 33, 34, 35 and 4 more]",
    )
    assert briefs([f"{long}a"], [f"{long}b"]) == (f"['...{long[:16]}a']", f"['...{long[:16]}b']")
    # a mask is called by its name, also where another of this name is meant
    masks = [{"mask": "mine", "answer": "closed", "cells": cells * 40} for cells in "ab"]
    one, other = briefs(masks[0], masks[1])
    assert one != other
    # what shows the difference is cut as ever
    assert briefs("x" * 50, "y" * 50) == (f"'{'x' * 23}...'", f"'{'y' * 23}...'")
