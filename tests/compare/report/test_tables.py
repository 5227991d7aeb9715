"""What a report says about curves that are written down here."""

from dataclasses import replace

import pytest
from scipy import stats

from mn_lightning.compare.report.results import Comparison, Curves, Point, compare_variants
from mn_lightning.compare.report.tables import difference_table, race_table, score_table, sentences
from mn_lightning.compare.study.study import Study


@pytest.mark.parametrize(
    ("bests", "interval", "verdict"),
    [
        ((0.8, 0.9, 0.85), "+0.07579 to +0.3242", "better than BN"),
        ((0.4, 0.6, 0.5), "-0.3984 to +0.09841", "3 of 3 seeds worse than BN; 3 seeds can't settle it, take 6"),
        ((0.75, 0.75, 0.75), "no spread", "not distinguishable from BN at 3 seeds"),
        ((0.75,), "–", "not distinguishable from BN at 1 seed; one seed can't settle it, take 5"),
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
    ((variant, _, found, _, _, says),) = table.rows
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


def two_variants(seconds: tuple[float, float, float]) -> tuple[Study, list[Comparison]]:
    """BN is at its best after 5, 10 and 15 evaluations; MN is as good after 4, 5 and never, as many seconds each."""
    study = Study("mine", (), {"BN": {}, "MN": {}}, "BN", "val_acc")
    ends = {"BN": (5, 10, 15), "MN": (4, 5, 99)}
    curves = [
        Curves(
            name,
            {
                seed: tuple(Point(20 * i, spent * i, 0.9 * (i >= end), i - 1) for i in range(1, 16))
                for seed, (end, spent) in enumerate(zip(last, seconds if name == "MN" else (1.0,) * 3, strict=True))
            },
        )
        for name, last in ends.items()
    ]
    return study, compare_variants(study, curves)


def test_what_was_saved_comes_from_the_numbers_beside_it() -> None:
    study, found = two_variants((2.0, 0.66, 1.0))
    table = race_table(study, found)
    assert table.header[1:] == ["steps", "BN's", "steps saved", "seconds", "BN's", "seconds saved", "reached"]
    bn, mn = table.rows
    assert bn[1:] == ["200 ± 100", "–", "–", "10.0 ± 5.0", "–", "–", "3 of 3"]
    # MN: steps 80 and 100 where BN took 100 and 200; seconds 4 * 2 and 5 * 0.66 where BN took 5 and 10.
    assert mn[1:] == ["90 ± 14", "150", "40%", "5.7 ± 3.3", "7.5", "24%", "2 of 3"]
    assert float(mn[6][:-1]) == round(100 * (1 - 5.7 / 7.5))  # a reader's pocket calculator, not 1 - 5.65 / 7.5 = 25%


def test_sentences_say_how_finely_steps_are_known() -> None:
    study, found = two_variants((2.0, 0.66, 1.0))
    *_, sentence, resolution = sentences(study, found)
    assert sentence.endswith("it reached BN's best in 2 of 3 seeds, with 40% fewer steps and 24% fewer seconds.")
    assert resolution == "val_acc was measured once an epoch, every 20 steps: steps saved are whole epochs."
    assert resolution in race_table(study, found).note


def test_evaluations_within_an_epoch_are_said_too() -> None:
    study = Study("mine", (), {"BN": {}, "MN": {}}, "BN", "val_acc")
    often = tuple(Point(7 * i, 1.0, 0.5, i // 4) for i in range(1, 9))
    found = compare_variants(study, [Curves("BN", {0: often}), Curves("MN", {0: often})])
    assert sentences(study, found)[-1] == "val_acc was measured every 7 steps: steps saved are multiples of that."


def test_the_note_says_what_was_corrected() -> None:
    names = ["BN", "MN", "Mode"]
    study = Study("mine", (), {name: {} for name in names}, "BN", "val_acc")
    values = {"BN": (0.5, 0.6, 0.55), "MN": (0.61, 0.7, 0.66), "Mode": (0.51, 0.59, 0.555)}
    curves = [Curves(name, {seed: (Point(1, 1, v),) for seed, v in enumerate(values[name])}) for name in names]
    both = difference_table(study, compare_variants(study, curves))
    assert both.header[3] == "p (Holm)"
    assert "corrected for the 2 variants" in both.note
    p = stats.ttest_rel(values["MN"], values["BN"]).pvalue
    assert both.rows[0][3] == f"{2 * p:.2g}"
    one = difference_table(replace(study, variants={"BN": {}, "MN": {}}), compare_variants(study, curves[:2]))
    assert one.header[3] == "p"
    assert one.rows[0][3] == f"{p:.2g}"
    assert "Holm" not in one.note
