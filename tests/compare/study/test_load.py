import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import StudyError
from mn_lightning.configs import study_names

VALID: dict[str, Any] = {
    "base": {"trainer": {"max_epochs": 2}},
    "variants": {"BN": None, "MN": {"trainer.callbacks+": [{"class_path": "X"}], "model.lr": 0.1, "data": "Y"}},
    "baseline": "BN",
    "metric": "val_acc",
}


def write(folder: Path, **changes: Any) -> str:
    content = {key: value for key, value in {**VALID, **changes}.items() if value != "absent"}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def test_a_study_is_read(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, seeds=[5, 3], published={"MN": {"25%": 0.5, "steps": 7}}))
    assert study.name == "mine"
    assert study.mode == "max"
    assert study.runs == [("BN", 5), ("MN", 5), ("BN", 3), ("MN", 3)]
    assert study.published == {"MN": {"25%": 0.5, "steps": 7}}
    assert load_study(write(tmp_path)).seeds == (0, 1, 2)


def test_overrides_are_options_of_the_command_line(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    assert study.arguments("MN", 3) == [
        "fit",
        "--config",
        '{"trainer": {"max_epochs": 2}}',
        '--trainer.callbacks+=[{"class_path": "X"}]',
        "--model.lr=0.1",
        "--data=Y",
        "--seed_everything=3",
    ]
    assert study.arguments("BN", 0) == ["fit", "--config", '{"trainer": {"max_epochs": 2}}', "--seed_everything=0"]


def test_places_are_kept_for_what_is_prepared(tmp_path: Path) -> None:
    place = "${prepare.features}"
    study = load_study(
        write(tmp_path, base={"a": [{"b": place}, "c"]}, variants={"BN": {"d": place, "e": [place]}},
              prepare={"features": ["digits", {"trainer": {"max_epochs": 1}}]})
    )  # fmt: skip
    path = Path('/a "b".ckpt')
    assert study.arguments("BN", 0, {"features": path}) == [
        "fit", "--config", json.dumps({"a": [{"b": str(path)}, "c"]}),
        f"--d={path}", f"--e={json.dumps([str(path)])}", "--seed_everything=0",
    ]  # fmt: skip
    assert "--d=${prepare.features}" in study.arguments("BN", 0)
    assert study.preparation("features")[3:] == ["--config", '{"trainer": {"max_epochs": 1}}', "--seed_everything=0"]


def test_bases_are_names_paths_and_mappings(tmp_path: Path) -> None:
    (tmp_path / "beside.yaml").write_text("a: 1")
    study = load_study(write(tmp_path, base=["digits", "beside.yaml", {"b": 2}]))
    assert "DigitsDataModule" in str(study.base[0])
    assert study.base[1:] == ({"a": 1}, {"b": 2})


def test_variants_can_have_baselines_of_their_own(tmp_path: Path) -> None:
    variants = {"BN-2": None, "MN-1": None, "BN-1": None, "MN-2": None, "MN-3": None}
    study = load_study(write(tmp_path, variants=variants, baseline={"MN-2": "BN-2", "MN-1": "BN-1", "MN-3": "BN-2"}))
    assert study.baselines == ["BN-2", "BN-1"]
    assert [study.baseline_of(variant) for variant in variants] == ["BN-2", "BN-1", "BN-1", "BN-2", "BN-2"]
    one = load_study(write(tmp_path))
    assert one.baselines == ["BN"]
    assert [one.baseline_of(variant) for variant in one.variants] == ["BN", "BN"]


def test_where_a_study_comes_from(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, paper="Kalayeh & Shah", table=6, images=50000))
    assert (study.paper, study.table, study.images) == ("Kalayeh & Shah", "6", 50000)
    study = load_study(write(tmp_path))
    assert (study.paper, study.table, study.images) == (None, None, None)


THREE: dict[str, Any] = {"BN": None, "MN": None, "Mode": None}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seed": [1]}, ["'seed'", "base, variants, baseline, metric, mode, seeds, published, prepare"]),
        ({"baseline": ["BN"]}, ["['BN']", "not a variant", "BN, MN"]),
        ({"baseline": {"MN": "bn"}}, ["'bn'", "not a variant", "BN, MN"]),
        ({"baseline": {"mn": "BN", "MN": "BN"}}, ["for 'mn'", "not a variant", "BN, MN"]),
        ({"baseline": {"MN": "BN"}, "variants": THREE}, ["no baseline for 'Mode'", "BN, MN, Mode"]),
        ({"baseline": {"MN": "BN", "Mode": "MN"}, "variants": THREE}, ["'BN' for 'MN'", "baseline itself"]),
        ({"baseline": {"BN": "BN", "MN": "BN"}}, ["'BN' for 'BN'", "baseline itself"]),
        ({"baseline": {}}, ["no baseline for 'BN'"]),
        ({"paper": ["K"]}, ["paper ['K']", "text"]),
        ({"table": True}, ["table True", "text"]),
        ({"images": "many"}, ["images 'many'", "1 or more"]),
        ({"references": {"Lin et al.": "0.9"}}, ["references {'Lin et al.': '0.9'}", "as 0.9"]),
        ({"also": ["val_top5_acc"]}, ["also: ['val_top5_acc']", "mapping from metrics"]),
        ({"also": {"top": {"IN": {"100%": 0.5}}}}, ["'IN', which is not a variant"]),
        ({"images": 0}, ["images 0", "1 or more"]),
        ({"base": "absent"}, ["lacks", "'base'"]),
        ({"metric": "absent", "baseline": "absent"}, ["'baseline', 'metric'"]),
        ({"baseline": "bn"}, ["'bn'", "not a variant", "BN, MN"]),
        ({"mode": "maximum"}, ["'maximum'", "max or min"]),
        ({"metric": 3}, ["metric 3", "name"]),
        ({"seeds": 3}, ["seeds 3", "list of different integers"]),
        ({"seeds": []}, ["seeds []"]),
        ({"seeds": [1, 1]}, ["[1, 1]"]),
        ({"seeds": [-1]}, ["[-1]"]),
        ({"seeds": [True]}, ["[True]"]),
        ({"variants": ["BN"]}, ["['BN']", "mapping from names"]),
        ({"variants": {}}, ["{}"]),
        ({"variants": {"BN": None, "a/b": None}}, ["'a/b'", "folders"]),
        ({"variants": {"BN": None, "..": None}}, ["'..'", "folders"]),
        ({"variants": {"BN": 3}}, ["'BN' with 3", "options of"]),
        ({"base": 3}, ["base 3", "its name or its path"]),
        ({"base": "nope"}, ["'nope'", "shipped are", "digits"]),
        ({"published": {"XN": {"25%": 1}}}, ["'XN'", "BN, MN"]),
        ({"published": {"MN": {"30%": 1}}}, ["30%", "25%, 50%, 75%, 100%, steps"]),
        ({"published": {"MN": {"25%": "good"}}}, ["'good'", "numbers"]),
        ({"prepare": ["digits"]}, ["['digits']", "mapping from names"]),
        ({"prepare": {"a/b": "digits"}}, ["a/b", "names"]),
        ({"prepare": {"features": "nope"}}, ["'nope'", "shipped are"]),
        ({"base": {"a": "${prepare.features}"}}, ["${prepare.features}", "under prepare are none"]),
        ({"variants": {"BN": {"a": ["${prepare.x}"]}}, "prepare": {"y": "digits"}}, ["${prepare.x}", "are y"]),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path, **changes))
    text = str(caught.value)
    assert "\n" not in text
    for part in [*parts, "mine.yaml"]:
        assert part in text


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "a: 1\x00"])
def test_what_is_no_mapping_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"odd\.yaml") as caught:
        load_study(str(tmp_path / "odd.yaml"))
    assert "\n" not in str(caught.value)


def test_an_unknown_study_lists_the_shipped() -> None:
    listed = "shipped are .*digits, evaluation_effect, fashion"
    with pytest.raises(StudyError, match=rf"study 'digit' is neither a file nor shipped; {listed}"):
        load_study("digit")


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_can_be_read(name: str) -> None:
    assert load_study(name).name == name


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"variants": {"BN": {"seed_everything": 3}}}, ["'BN' with seed_everything", "all its runs would be equal"]),
        ({"base": {"seed_everything": 3}}, ["gives seed_everything in a configuration", "under seeds alone"]),
        ({"base": ["digits", {"seed_everything": 3}]}, ["gives seed_everything in a configuration"]),
        ({"prepare": {"a": {"seed_everything": 3}}}, ["gives seed_everything in a configuration"]),
        ({"variants": {"BN": {"config": "digits"}}}, ["'BN' with config", "write the options themselves"]),
        ({"variants": {"BN": {"--x": 3}}}, ["'--x', which is not an option", "without their dashes"]),
        ({"variants": {"BN": None, "-x": None}}, ["a variant '-x'", "after the first '-'"]),
        ({"variants": {"BN": None, "bn": None}}, ["a variant 'BN' and a variant 'bn'", "rename one"]),
        ({"variants": {"BN": None, "x" * 101: None}}, ["a variant 'xxx", "at most 100 letters"]),
        ({"variants": {"BN": None, 3: None}}, ["a variant 3"]),
        ({"published": "x"}, ["published: 'x'", "from variants to numbers"]),
        ({"published": {"BN": [1]}}, ["published: {'BN': [1]}"]),
        ({"also": {"top": {"BN": 3}}}, ["also top: {'BN': 3}"]),
        ({"inspect": {"BN": {"channels": "all"}}}, ["inspect: {'BN': {'channels': 'all'}}", "channels: [0, 5]"]),
        ({"metric": ""}, ["metric ''"]),
    ],
)
def test_what_would_be_wrong_without_a_word(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    test_what_is_wrong_is_one_line(tmp_path, changes, parts)


def test_a_duplicate_variant_is_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    path.write_text(path.read_text().replace("  BN: null\n", "  BN: null\n  BN: {model.lr: 1}\n"))
    with pytest.raises(StudyError, match=r"mine\.yaml gives 'BN' twice, at lines 5 and 6; keep one of them"):
        load_study(str(path))


def test_a_seed_in_a_configurations_file_gives_way(tmp_path: Path) -> None:
    (tmp_path / "beside.yaml").write_text("seed_everything: 7\na: 1")
    arguments = load_study(write(tmp_path, base="beside.yaml")).arguments("MN", 3)
    assert arguments[-1] == "--seed_everything=3"
