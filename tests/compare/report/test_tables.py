"""What a report says about curves that are written down here."""

import pytest

from mn_lightning.compare.report.results import Curves, Point, compare_variants
from mn_lightning.compare.report.tables import difference_table, score_table
from mn_lightning.compare.study.study import Study


@pytest.mark.parametrize(
    ("bests", "interval", "verdict"),
    [
        ((0.8, 0.9, 0.85), "+0.07579 to +0.3242", "better than BN"),
        ((0.4, 0.6, 0.5), "-0.3984 to +0.09841", "not distinguishable from BN at 3 seeds"),
        ((0.75, 0.75, 0.75), "no spread", "not distinguishable from BN at 3 seeds"),
        ((0.75,), "–", "not distinguishable from BN at 1 seed"),
    ],
)
def test_verdicts(bests: tuple[float, ...], interval: str, verdict: str) -> None:
    """The intervals are scipy's: ``t.interval(0.95, 2, mean, sem)`` of 0.15, 0.25, 0.2 and of -0.25, -0.05, -0.15."""
    study = Study("mine", (), {"BN": {}, "MN": {}}, "BN", "val_acc", seeds=(0, 1, 2))
    curves = [
        Curves("BN", {seed: (Point(1, 1, 0.65),) for seed in range(3)}),
        Curves("MN", {seed: (Point(1, 1, best),) for seed, best in enumerate(bests)}),
    ]
    table = difference_table(study, compare_variants(study, curves))
    ((variant, _, found, _, says),) = table.rows
    assert (variant, found, says) == ("MN", interval, verdict)
    assert ("there is no interval" in table.note) == (interval == "no spread")


def test_the_score_table_has_what_is_printed_beside_the_scores() -> None:
    """Published deviations and references, and how steady a run was where it has ten epochs."""
    published = {"BN": {"100%": 0.7309, "std": 0.0108}, "MN": {"100%": 0.7684}}
    references = {"Lin et al.": 0.9119}
    study = Study("mine", (), {"BN": {}, "MN": {}}, "BN", "val_acc", published=published, references=references)
    long = tuple(Point(epoch, 1.0, 0.5 + 0.1 * (epoch % 2), epoch) for epoch in range(10))
    curves = [Curves("BN", {0: long}), Curves("MN", {0: long[:3]})]
    table = score_table(study, compare_variants(study, curves))
    assert table.header[5:7] == ["seeds", "within 10 epochs"]
    assert [row[6] for row in table.rows] == ["0.0527", "–"]
    assert [row[-1] for row in table.rows] == ["0.7309 ± 0.0108", "0.7684"]
    assert table.note.endswith("Printed beside them: Lin et al. 0.9119.")
    short = score_table(study, compare_variants(study, [Curves("BN", {0: long[:3]}), Curves("MN", {0: long[:3]})]))
    assert "within 10 epochs" not in short.header
