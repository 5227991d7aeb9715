"""Say whether a variant differs from its baseline, as far as the numbers of seeds and variants allow."""

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from mn_lightning.compare.report.results import Comparison
from mn_lightning.compare.study.study import Study

SIGNIFICANCE = 0.05
POWER = 0.8
FEWEST_SEEDS = 5
"""The fewest seeds to recommend: with fewer, nobody can see whether differences are spread as the t test assumes."""

MOST_SEEDS = 50
_LARGEST_EFFECT = 5.0
"""In standard deviations. A larger effect comes from few seeds that are alike by chance, and changes no advice."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979): a finding with a corrected p below 0.05 holds among all of them.

    Examples:
        >>> holm([0.01, 0.5, 0.03])
        [0.03, 0.5, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def seeds_needed(differences: Sequence[float], tests: int = 1) -> int | None:
    """Return how many seeds a paired t test needs to find such a difference, with such a spread, in 80% of studies.

    Args:
        differences: at least two, not all equal.
        tests: number of variants that are tested, which share the 0.05.

    Returns:
        :data:`FEWEST_SEEDS` or more; None if it is more than :data:`MOST_SEEDS`.

    Examples:
        >>> seeds_needed([0.01, 0.02])
        5
        >>> seeds_needed([0.01, 0.03, -0.01])
        34
    """
    effect = min(abs(fmean(differences)) / stdev(differences), _LARGEST_EFFECT)
    numbers = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    enough = numbers[power(effect, numbers, SIGNIFICANCE / tests) >= POWER]
    return int(enough[0]) if len(enough) else None


def power(effect: float, seeds: np.ndarray, significance: float) -> np.ndarray:
    """Return the probability that a two-sided paired t test finds a difference of ``effect`` standard deviations.

    Args:
        effect: 0 or more.
        seeds: numbers of pairs; the result has a probability for each.
        significance: of the test.
    """
    critical, shift = stats.t.ppf(1 - significance / 2, seeds - 1), effect * np.sqrt(seeds)
    return np.asarray(stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift))


def corrected(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return the p, corrected by Holm's method, of each variant that has one."""
    tested = {
        found.variant: found.difference.p
        for found in comparisons
        if not found.is_baseline and found.difference.p is not None
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def verdict(study: Study, found: Comparison, p_values: dict[str, float]) -> str:
    """Write how a variant's best score compares to its baseline's.

    Args:
        study: says whether more is better.
        found: the variant.
        p_values: of all variants, see :func:`corrected`.
    """
    name, difference = found.baseline, found.difference
    if difference.mean is None:
        return "not known yet"
    word = "better" if (difference.mean > 0) == (study.mode == "max") else "worse"
    seeds, p = counted_seeds(difference.seeds), p_values.get(found.variant)
    one_sided = p is not None and (min(difference.by_seed) > 0 or max(difference.by_seed) < 0)
    settled = p is not None and p < SIGNIFICANCE and difference.seeds > 2
    if word == "better" and found.broken and (settled or one_sided):
        return f"no verdict: {found.broken[0]}, has values that are not finite"
    if settled:
        return f"{word} than {name}"
    if difference.seeds == 1:
        return f"not distinguishable from {name} at {seeds}; one seed can't settle it, take {FEWEST_SEEDS}"
    if p is None:
        return f"not distinguishable from {name} at {seeds}"
    needed = seeds_needed(difference.by_seed, len(p_values))
    if one_sided:
        few = "two seeds" if difference.seeds == 2 else seeds
        take = f"take {needed}" if needed else f"it takes more than {MOST_SEEDS}"
        return f"{difference.seeds} of {seeds} {word} than {name}; {few} can't settle it, {take}"
    take = f"takes {needed} seeds" if needed else f"takes more than {MOST_SEEDS} seeds"
    return f"not distinguishable from {name} at {seeds}; such a difference {take}"


def counted_seeds(count: int) -> str:
    """Write a number of seeds, such as ``3 seeds``."""
    return f"{count} seed{'s' * (count != 1)}"
