"""The trie of answers: what is fed once, and where each form is read."""

import pytest

from sublim_mech.engine.answers import NO_ANSWERS, Answers, build_trie, shortest_paths

# forms that share beginnings, one that shares nothing, and a long one
PATHS = [(5,), (6, 7), (6, 7, 8), (6, 9, 8), (4, 4, 4), (4, 4, 2, 9, 1)]


def strings_of(trie):
    """The token strings that the forms spell."""
    return [tuple(token for _, token in form) for form in trie.forms]


def spelled_by(trie, node):
    """The tokens from a node's root to the node."""
    parent = trie.parents[node]
    above = () if parent < 0 else spelled_by(trie, parent)
    return (*above, trie.nodes[node])


def test_every_form_is_read_along_its_own_path():
    trie = build_trie([PATHS])
    assert strings_of(trie) == PATHS
    for form in trie.forms:
        reads = [read for read, _ in form]
        assert reads[0] == 0
        for step, read in enumerate(reads[1:], 1):
            assert spelled_by(trie, read - 1) == tuple(token for _, token in form[:step])


def test_nodes_are_the_inner_prefixes_each_once_and_parents_first():
    trie = build_trie([PATHS])
    prefixes = {path[:length] for path in PATHS for length in range(1, len(path))}
    spelled = [spelled_by(trie, node) for node in range(len(trie.nodes))]
    assert len(spelled) == len(prefixes)
    assert set(spelled) == prefixes
    assert all(parent < node for node, parent in enumerate(trie.parents))
    roots = [node for node, prefix in enumerate(spelled) if len(prefix) == 1]
    assert {trie.parents[root] for root in roots} == {-1}  # the last prompt token


def test_depths_reads_and_length_by_hand():
    trie = Answers(nodes=(6, 7, 9, 4), parents=(-1, 0, 0, -1), at=(2, 3))
    assert trie.depths == (1, 2, 2, 1)
    assert trie.length == 2
    assert trie.reads == 1 + 4 + 2
    assert (NO_ANSWERS.reads, NO_ANSWERS.length, NO_ANSWERS.depths) == (1, 0, ())


def test_groups_share_nodes_and_keep_their_forms_apart():
    alone = build_trie([[(6, 7, 8)]])
    both = build_trie([[(6, 7, 8)], [(6, 7, 9), (5,)]])
    assert both.nodes == alone.nodes
    assert both.traits == (0, 1, 1)
    assert strings_of(both) == [(6, 7, 8), (6, 7, 9), (5,)]


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        ([(1,), (1, 2)], [(1,)]),
        ([(1, 2), (1,)], [(1,)]),
        ([(1, 2), (1, 3)], [(1, 2), (1, 3)]),
        ([(1, 2), (1, 2)], [(1, 2)]),
        ([(1, 2, 3), (2,), (1, 2)], [(2,), (1, 2)]),
        ([], []),
    ],
)
def test_what_continues_another_path_is_left_out(paths, kept):
    assert shortest_paths(paths) == kept
