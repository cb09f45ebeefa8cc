"""What a study can show, before it is run.

- `least_p`: a permutation test has only so many assignments; below one in them no p can be.
- `minimum_detectable_effect`: the smallest true effect that a t test over data sets would find four
  times in five, from the spread of an earlier study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..arguments import checked
from ..hints import counted
from .spreads import Spread
from .students_t import power_of_t


@checked
def least_p(data_sets: Sequence[int]) -> float:
    """The least p that permutations within row seeds can give.

    Args:
        data_sets: of each row seed, for how many traits there are data sets; `[3, 3, 3]` for three
            traits and three row seeds.

    Returns:
        One over the number of assignments, the product of all factorials.

    Raises:
        ValueError: a row seed without data sets.

    Example:
        >>> from sublim_mech.stats import least_p
        >>> least_p([2]), round(least_p([4]), 3), round(least_p([3, 3, 3]), 4)
        (0.5, 0.042, 0.0046)
    """
    for number in data_sets:
        if number < 1:
            raise ValueError(
                f"data_sets={list(data_sets)}: {number}; each row seed has at least 1."
            )
    return 1 / math.prod(math.factorial(number) for number in data_sets)


@dataclass(frozen=True)
class Detectable:
    """The smallest effect that a plan would find.

    Attributes:
        effect: found with probability `power`, in the unit of the spread.
        standard_error: of the mean over data sets.
        power: how often.
        level: of the two-sided test.
        data_sets, training_seeds, prompts: of the plan; seeds of each data set, prompts of each
            student.
    """

    effect: float
    standard_error: float
    power: float
    level: float
    data_sets: int
    training_seeds: int
    prompts: int

    def __repr__(self) -> str:
        plan = f"{counted(self.data_sets, 'data set')} x {counted(self.training_seeds, 'seed')}"
        if math.isinf(self.effect):
            return f"with {plan} no effect could be told: needs two data sets"
        return (
            f"with {plan} you would see {self.effect:.2g} ({self.power:z.0%} of studies, two-sided "
            f"{self.level:z.0%}; standard error {self.standard_error:.2g})"
        )


@checked
def minimum_detectable_effect(
    spread: Spread,
    *,
    data_sets: int,
    training_seeds: int = 1,
    prompts: int = 1,
    power: float = 0.8,
    level: float = 0.05,
) -> Detectable:
    """The smallest true mean that Student's t over data sets would find.

    Args:
        spread: of an earlier study (`spread`), or a guess.
        data_sets: of the plan.
        training_seeds: of each data set.
        prompts: of each student.
        power: how often it is to be found.
        level: of the two-sided test.

    Returns:
        Infinite for a single data set.

    Raises:
        ValueError: fewer than one of anything, a level that is no probability, or a power at or
            below the level.

    Example:
        >>> from sublim_mech.stats import Spread, minimum_detectable_effect
        >>> minimum_detectable_effect(Spread(0.05, 0.02), data_sets=3, training_seeds=3)
        with 3 data sets x 3 seeds you would see 0.17 (80% of studies, two-sided 5%; ...)

    Source: Bloom 1995 (doi:10.1177/0193841X9501900504), with the noncentral t instead of its normal
    approximation.
    """
    for name, number in (
        ("data_sets", data_sets),
        ("training_seeds", training_seeds),
        ("prompts", prompts),
    ):
        if number < 1:
            raise ValueError(f"{name}={number}: at least 1.")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a probability between 0 and 1, such as 0.05 for 5 %.")
    if not level < power < 1:
        raise ValueError(f"power={power}: must lie between level={level} and 1.")
    error = spread.standard_error(data_sets, training_seeds, prompts)
    effect = math.inf
    if data_sets > 1:
        effect = error * detectable_in_errors(data_sets - 1, power=power, level=level)
    return Detectable(effect, error, power, level, data_sets, training_seeds, prompts)


@lru_cache(maxsize=1024)
def detectable_in_errors(df: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The effect in standard errors that a t test finds with a given power."""
    low, high = 0.0, 1.0
    while power_of_t(high, df, level=level) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if power_of_t(middle, df, level=level) < power:
            low = middle
        else:
            high = middle
    return (low + high) / 2
