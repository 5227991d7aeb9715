"""Against Holm's procedure as he wrote it, tables of power, an integral, and seeds counted by hand."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from mn_lightning.compare.report.results import Curves, Point, compare_variants
from mn_lightning.compare.report.verdicts import MOST_SEEDS, corrected, holm, power, seeds_needed, verdict
from mn_lightning.compare.study.study import Mode, Study


def rejected_by_holm(p_values: list[float], level: float) -> set[int]:
    """Holm 1979: take the smallest p first, and stop at the first that is above level / (number left)."""
    left = list(range(len(p_values)))
    rejected: set[int] = set()
    while left:
        smallest = min(left, key=lambda i: p_values[i])
        if p_values[smallest] > level / len(left):
            break
        rejected.add(smallest)
        left.remove(smallest)
    return rejected


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.2))
def test_holm(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    if all(abs(p * n - level) > 1e-9 for p in p_values for n in range(1, 9)):  # no tie that rounding decides
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected_by_holm(p_values, level)
    assert all(own <= found <= 1 for own, found in zip(p_values, adjusted, strict=True))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_seeds_are_those_of_tables_of_power(effect: float, seeds: int) -> None:
    """Cohen's and G*Power's numbers for a paired t test, two-sided 0.05, power 0.8."""
    differences = [effect - 1 / math.sqrt(2), effect + 1 / math.sqrt(2)]
    assert stdev(differences) == pytest.approx(1)
    assert seeds_needed(differences) == seeds


@pytest.mark.parametrize(("effect", "seeds", "level"), [(0.5, 10, 0.05), (1.2, 5, 0.01), (3.0, 3, 0.05)])
def test_power_is_the_integral_over_spreads(effect: float, seeds: int, level: float) -> None:
    """Given the sample's spread s, the mean is normal: P(|mean| > t s / sqrt(n)), over the distribution of s."""
    critical, shift = stats.t.ppf(1 - level / 2, seeds - 1), effect * math.sqrt(seeds)

    def integrand(s: float) -> float:
        beyond = stats.norm.sf(critical * s - shift) + stats.norm.cdf(-critical * s - shift)
        return float(beyond * stats.chi.pdf(s * math.sqrt(seeds - 1), seeds - 1) * math.sqrt(seeds - 1))

    (found,) = power(effect, np.array([seeds]), level)
    assert found == pytest.approx(integrate.quad(integrand, 0, 10)[0], abs=1e-6)


def test_seeds_have_bounds_and_grow_with_the_number_of_variants() -> None:
    assert seeds_needed([0.1, 0.1001]) == 5
    assert seeds_needed([0.1, -0.1]) is None
    assert seeds_needed([0.0, 0.01, -0.008]) is None
    alone, among_six = seeds_needed([0.0, 0.02, 0.01]), seeds_needed([0.0, 0.02, 0.01], tests=6)
    assert alone is not None
    assert among_six is not None
    assert alone < among_six <= MOST_SEEDS


# --- sentences ----------------------------------------------------------------------------------------------------


def said(
    *by_variant: list[float], mode: Mode = "max", broken: tuple[str, ...] = (), base: float = 0.5
) -> dict[str, str]:
    """Verdicts for variants V0, V1, ... with these differences to a baseline, a seed each."""
    names = [f"V{i}" for i in range(len(by_variant))]
    study = Study("mine", (), {name: {} for name in ["BN", *names]}, "BN", "val_acc", mode, seeds=tuple(range(9)))
    # A baseline whose scores vary far more than the differences do: pairs count, not means.
    baseline = {seed: base + 0.1 * (seed % 2) for seed in range(9)}
    curves = [Curves("BN", {seed: (Point(1, 1, value),) for seed, value in baseline.items()}, _broken("BN", broken))]
    for name, differences in zip(names, by_variant, strict=True):
        values = {seed: (Point(1, 1, baseline[seed] + value),) for seed, value in enumerate(differences)}
        curves.append(Curves(name, values, _broken(name, broken)))
    found = compare_variants(study, curves)
    p_values = corrected(found)
    return {own.variant: verdict(study, own, p_values) for own in found if not own.is_baseline}


def _broken(name: str, broken: tuple[str, ...]) -> frozenset[int]:
    return frozenset({1}) if name in broken else frozenset()


def test_two_seeds_settle_nothing() -> None:
    """t = 12.7, just below the 12.706 that two seeds need; and t = 63, far above it."""
    far = [-0.1165, -0.0995]
    assert mean(far) / (stdev(far) / math.sqrt(2)) == pytest.approx(-12.7, abs=0.01)
    expected = {"V0": "2 of 2 seeds worse than BN; two seeds can't settle it, take 5"}
    assert said(far) == expected
    assert said([-0.1016, -0.0984]) == expected
    assert said([0.1016, 0.0984], mode="min") == expected
    assert said([0.1016, 0.0984])["V0"].startswith("2 of 2 seeds better")
    assert said([0.02, -0.02])["V0"] == (
        "not distinguishable from BN at 2 seeds; such a difference takes more than 50 seeds"
    )


def test_three_seeds() -> None:
    assert said([0.15, 0.25, 0.2]) == {"V0": "better than BN"}
    assert said([-0.15, -0.25, -0.2]) == {"V0": "worse than BN"}
    # The differences' mean is half of their standard deviation: 34 seeds.
    assert said([0.01, 0.03, -0.01]) == {
        "V0": "not distinguishable from BN at 3 seeds; such a difference takes 34 seeds"
    }
    assert said([0.01, 0.03, 0.002])["V0"].startswith("3 of 3 seeds better than BN; 3 seeds can't settle it, take ")
    assert said([0.01, 0.01, 0.01]) == {"V0": "not distinguishable from BN at 3 seeds"}
    assert said([0.01]) == {"V0": "not distinguishable from BN at 1 seed; one seed can't settle it, take 5"}
    assert said([]) == {"V0": "not known yet"}


def test_one_finding_among_several_may_be_chance() -> None:
    """p = 0.03 alone; among three variants 0.09."""
    finding = [0.0055, 0.01, 0.0120]
    p = stats.ttest_1samp(finding, 0).pvalue
    assert 0.05 / 3 < p < 0.05
    assert said(finding) == {"V0": "better than BN"}
    noise = [[0.01, -0.012, 0.003], [-0.01, 0.012, 0.002]]
    assert said(finding, *noise)["V0"].startswith("3 of 3 seeds better than BN; 3 seeds can't settle it, take ")


def test_a_run_that_broke_is_never_better() -> None:
    for broken in ("V0", "BN"):
        expected = {"V0": f"no verdict: {broken}, seed 1, has values that are not finite"}
        assert said([0.15, 0.25, 0.2], broken=(broken,)) == expected
        assert said([0.1016, 0.0984], broken=(broken,)) == expected
        assert said([-0.15, -0.25, -0.2], broken=(broken,)) == {"V0": "worse than BN"}
    assert said([0.15, 0.25, 0.2], [0.15, 0.26, 0.2], broken=("V1",))["V0"] == "better than BN"


@pytest.mark.slow
def test_of_studies_without_a_difference_five_in_a_hundred_find_one() -> None:
    """Six variants, five seeds, 100 studies: at least one false finding in 5% of them, not in 26%."""
    random = np.random.default_rng(0)
    false = 0
    for _ in range(100):
        found = said(*(list(random.normal(0, 0.01, 5)) for _ in range(6)))
        false += any(text in ("better than BN", "worse than BN") for text in found.values())
    assert false <= stats.binom.ppf(0.999, 100, 0.05)
