"""What `repr` prints: tables that suit the cells, and how far to trust them."""

import numpy as np
import pandas as pd
import synthetic

from sublim_mech.results.report import POOR_AGREEMENT, show


def test_small_effects_are_printed_with_their_digits():
    table = pd.DataFrame({"tokens": [0.5, 0.5], "effect": [-0.00123456, 0.0]})
    assert show(table).splitlines()[1].split() == ["0", "0.50000", "-0.00123"]
    assert show(table * 100).splitlines()[1].split() == ["0", "50.000", "-0.123"]
    assert show(table * 0).splitlines()[1].split() == ["0", "0.000", "-0.000"]


def test_directions_have_their_own_tables():
    both = synthetic.patch(both=True)
    text = repr(both)
    for name in ("denoising", "noising"):
        table = show(both.sel(direction=name).by("role"))
        assert table in text.partition(f"direction {name}\n")[2]
    assert "direction denoising and noising" in both.title()


def test_other_donors_are_in_the_title():
    scores = synthetic.recorded(synthetic.patch(), donor_contexts=("{}",))
    assert scores.title().endswith("direction denoising, donor on other prompts")


def test_confirmation_is_a_table_and_a_line():
    scores = synthetic.confirmed(synthetic.gradient())
    table = scores.confirmation
    assert table["top"].sum() == 4
    np.testing.assert_allclose(table["exact"], 0.11 * np.arange(7) - 0.02)
    line = (
        "confirmed on 4 strongest and 3 random cells: Pearson 0.93, Spearman 0.88, same sign 95 %"
    )
    assert line in repr(scores)
    assert POOR_AGREEMENT not in repr(scores)
    assert POOR_AGREEMENT in repr(synthetic.confirmed(synthetic.gradient(), poor=True))
    assert synthetic.gradient().confirmation is None


def test_unconfirmed_estimates_say_so():
    line = "not confirmed: estimates from gradients (sublim_mech.confirm)"
    assert line in repr(synthetic.gradient())
    assert line not in repr(synthetic.confirmed(synthetic.gradient()))
    assert "not confirmed" not in repr(synthetic.attribution()) + repr(synthetic.patch())
    assert "no exact counterpart" in repr(synthetic.gradient(method="gradient_x_input"))


def test_rounding_is_told():
    scores = synthetic.rounded(synthetic.effect(), error=0.013)
    assert "computed in bfloat16: totals off by up to 0.013 nats" in repr(scores)
    assert "computed in" not in repr(synthetic.effect())
