"""Intervals, tests and plans: what numbers over prompts, seeds and students can tell.

1. Over prompts (`over_prompts`): one student, asked several questions.
2. Over data sets and training seeds (`nesting`): many students; data sets are what is sampled.
3. Over students and traits (`diagonal`): gamma of the trait matrix with every row seed's students.
4. Between curves (`curves`): the trait at equal held-out KL.
5. Within a map (`shifts`): what a token set would have, stood it elsewhere.
6. Before a study is run (`plans`) and when several claims are told of it (`rates`, `claims`).
"""

from .claims import (
    full_fine_tuning_claim,
    inverted_u_claim,
    transmission_claim,
    verdicts,
)
from .claims_arms import trained_at_claim
from .claims_where import context_claim, localisation_claim
from .curves import Curve, EqualKL, equal_kl
from .diagonal import DiagonalExcess, diagonal_excess
from .nesting import (
    FEWEST_DATA_SETS,
    NestedInterval,
    cluster_t,
    nested_bootstrap,
    nested_interval,
)
from .over_prompts import (
    DRAWS,
    FEWEST,
    Array,
    Interval,
    MaxT,
    bootstrap_weights,
    max_t,
    mean_interval,
    ratio_interval,
    wilson,
)
from .plans import Detectable, least_p, minimum_detectable_effect
from .rates import benjamini_hochberg
from .shifts import Shifts, shifted
from .spreads import Correlation, Spread, intraclass_correlation, spread
from .statements import MATTERS, Statement, Verdict
from .students_t import power_of_t, quantile_of_f, quantile_of_t, two_sided_p

__all__ = [
    "DRAWS",
    "FEWEST",
    "FEWEST_DATA_SETS",
    "MATTERS",
    "Array",
    "Correlation",
    "Curve",
    "Detectable",
    "DiagonalExcess",
    "EqualKL",
    "Interval",
    "MaxT",
    "NestedInterval",
    "Shifts",
    "Spread",
    "Statement",
    "Verdict",
    "benjamini_hochberg",
    "bootstrap_weights",
    "cluster_t",
    "context_claim",
    "diagonal_excess",
    "equal_kl",
    "full_fine_tuning_claim",
    "intraclass_correlation",
    "inverted_u_claim",
    "least_p",
    "localisation_claim",
    "max_t",
    "mean_interval",
    "minimum_detectable_effect",
    "nested_interval",
    "nested_bootstrap",
    "power_of_t",
    "quantile_of_f",
    "quantile_of_t",
    "ratio_interval",
    "shifted",
    "spread",
    "trained_at_claim",
    "transmission_claim",
    "two_sided_p",
    "verdicts",
    "wilson",
]
