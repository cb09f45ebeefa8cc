"""Which rows speak of which claim."""

from itertools import product

import pandas as pd

from sublim_mech.stats import context_claim
from sublim_mech.studies.concluding import Evidence, conclusions, students


def test_students_of_chosen_tokens_speak_of_training_at_tokens_alone():
    """Even where they imitate better, which decides between settings otherwise."""
    of_all = {
        "training_seed": 0, "labels": "contrastive", "c": 4.0, "trained_in": "default",
        "evaluated_in": "default", "method": "r8", "kind": "lora", "rank": 8, "rule": "",
        "lr": 1e-3, "step": 0, "base level": -9.0, "change": 0.1, "control": 0.0,
    }  # fmt: skip
    arms = {"everywhere": 0.5, "shared": 0.1, "not shared": 0.2}
    rows = [
        {**of_all, "trait": trait, "row_seed": seed, "where": arm, "kl": kl, "specific": kl}
        for (arm, kl), trait, seed in product(arms.items(), ("owl", "cat"), (0, 1))
    ]
    evidence = Evidence(students(pd.DataFrame(rows)))
    assert set(evidence.traits().rows["where"]) == {"everywhere"}
    assert set(evidence.trained_at().rows["where"]) == set(arms)
    only = Evidence(students(pd.DataFrame([row for row in rows if row["where"] == "shared"])))
    assert set(only.traits().rows["where"]) == {"shared"}


def test_longer_texts_are_no_other_context_and_the_page_says_which_they_are():
    rows = pd.DataFrame(asked_everywhere({"one": (("owl", "cat"), ("default", "long"))}))
    both = students(rows)
    (verdict,) = [one for one in conclusions(Evidence(both, ("long",))) if "context" in one.claim]
    told = "no student was asked in another context, longer texts (long) apart"
    assert told in repr(verdict)
    (verdict,) = [one for one in conclusions(Evidence(both)) if "context of" in one.claim]
    assert "no student was asked" not in repr(verdict)


def asked_everywhere(focus_of_part):
    """Students that say the same in every context, in parts of several focuses: rows as a study
    writes them. What a control has depends on its own trait.
    """
    has = {"owl": 0.5, "cat": 0.1, "wolf": -0.3}
    usual = {
        "training_seed": 0, "labels": "contrastive", "c": 4.0, "where": "everywhere",
        "trained_in": "default", "method": "r8", "kind": "lora", "rank": 8, "rule": "", "lr": 1e-3,
        "step": 0, "kl": 1e-3, "base level": -9.0, "base": "tiny",
    }  # fmt: skip
    rows = []
    for (part, (focus, contexts)), seed in product(focus_of_part.items(), range(3)):
        for trait, context in product(focus, contexts):
            others = [one for one in focus if one != trait]
            change = has[trait] + seed / 100
            control = sum(has[one] for one in others) / len(others)
            rows.append({
                **usual, "part": part, "trait": trait, "row_seed": seed, "evaluated_in": context,
                "student": f"{trait}{seed}", "controls": " ".join(f"{one}{seed}" for one in others),
                "change": change, "control": control, "specific": change - control,
                **{f"change {one}": change * (one == trait) for one in has},
            })  # fmt: skip
    return pd.DataFrame(rows)


PARTS = {
    "ranks": (("owl", "cat", "wolf"), ("default",)),
    "contexts": (("owl", "cat"), ("default", "empty")),
}


def test_where_no_context_matters_no_other_controls_make_one_matter():
    rows = asked_everywhere(PARTS)
    evidence = Evidence(students(rows))
    chosen = evidence.contexts()
    assert "focus cat + owl" in chosen.setting
    found = chosen.rows.groupby(["trait", "row_seed"])["specific"].nunique()
    assert (found == 1).all()
    (_, lost, *_) = context_claim(chosen.rows).statements
    assert lost.mean == 0
    # in whatever order the parts stand
    again = Evidence(students(rows[::-1])).contexts().rows
    assert sorted(again["specific"]) == sorted(chosen.rows["specific"])


def test_the_trait_matrix_has_every_student_once_whatever_it_is_compared_with():
    chosen = Evidence(students(asked_everywhere(PARTS))).traits()
    assert len(chosen.rows) == 3 * 3
    assert "focus" not in chosen.setting


def test_a_control_without_a_row_of_its_own_is_of_the_set_that_fits():
    """Of an unfinished study; and parts of one focus are told without a word of it."""
    rows = asked_everywhere(PARTS)
    last = (rows["row_seed"] == 2) & (rows["trait"] == "cat")
    left = students(rows[~last])
    whole = students(rows)
    assert set(left["focus"]) == set(whole["focus"]) == {"cat + owl", "cat + owl + wolf"}
    one = students(asked_everywhere({"ranks": PARTS["ranks"]}))
    assert set(one["focus"]) == {""}
