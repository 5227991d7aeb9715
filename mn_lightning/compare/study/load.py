"""Read a study's file, and check everything that can be checked without a training."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from mn_lightning.compare.study.study import PUBLISHED, Mode, Study, StudyError
from mn_lightning.configs import config_path, study_path

_FOLDER_NAME = re.compile(r"[\w+=-][\w+=., -]*")


def load_study(value: str) -> Study:
    """Read a study by the path of its file or, if it is shipped, by its name.

    Args:
        value: ``"my_study.yaml"``, ``"digits"``.

    Returns:
        The study, with its bases read in.

    Raises:
        StudyError: there is no such study, or the file does not hold one.

    Examples:
        >>> study = load_study("digits")
        >>> list(study.variants), study.metric, len(study.runs)
        (['BatchNorm', 'MixtureNorm', 'ModeNorm'], 'val_acc', 9)
    """
    try:
        path = study_path(value)
    except FileNotFoundError as error:
        raise StudyError(str(error)) from error
    content = _read(path)
    known = [entry.name for entry in fields(Study) if entry.name != "name"]
    unknown = sorted(set(content) - set(known))
    missing = [key for key in ("base", "variants", "baseline", "metric") if key not in content]
    if unknown:
        raise StudyError(f"{path} has the key {', '.join(map(repr, unknown))}; a study has {', '.join(known)}")
    if missing:
        raise StudyError(f"{path} lacks the key {', '.join(map(repr, missing))}; a study has {', '.join(known)}")
    content["base"] = _read_bases(path, content["base"])
    content["prepare"] = _read_prepare(path, content.get("prepare", {}))
    content["seeds"] = _check_seeds(path, content.get("seeds", list(Study.seeds)))
    content["variants"] = _check_variants(path, content["variants"])
    for key in ("paper", "table"):
        content[key] = _check_text(path, key, content.get(key))
    study = Study(path.stem, **content)
    _check_baseline(path, study)
    if study.mode not in get_args(Mode):
        raise StudyError(f"{path} has the mode {study.mode!r}; it takes {' or '.join(get_args(Mode))}")
    if not isinstance(study.metric, str):
        raise StudyError(f"{path} has the metric {study.metric!r}; it takes the name of one")
    if study.images is not None and (type(study.images) is not int or study.images < 1):
        raise StudyError(f"{path} has the images {study.images!r}; it takes their number, 1 or more")
    if not isinstance(study.current_statistics, bool):
        raise StudyError(f"{path} has current_statistics: {study.current_statistics!r}; it takes true or false")
    if not isinstance(study.also, dict):
        raise StudyError(f"{path} has also: {study.also!r}; it takes a mapping from metrics to published numbers")
    study = replace(study, also={name: numbers or {} for name, numbers in study.also.items()})
    for numbers in (study.published, *study.also.values()):
        _check_published(path, study, numbers)
    _check_references(path, study.references)
    _check_inspect(path, study)
    _check_places(path, study)
    return study


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(map(str, names))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds {type(content).__name__}; it takes a mapping")
    return content


def _read_bases(path: Path, configs: Any) -> tuple[dict[str, Any], ...]:
    return tuple(_read_base(path, config) for config in (configs if isinstance(configs, list) else [configs]))


def _read_prepare(path: Path, prepare: Any) -> dict[str, tuple[dict[str, Any], ...]]:
    if not isinstance(prepare, dict) or not all(_is_folder_name(name) for name in prepare):
        raise StudyError(f"{path} has prepare: {prepare!r}; it takes a mapping from names to configurations")
    return {name: _read_bases(path, configs) for name, configs in prepare.items()}


def _is_folder_name(name: Any) -> bool:
    return isinstance(name, str) and _FOLDER_NAME.fullmatch(name) is not None


def _read_base(path: Path, config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    if not isinstance(config, str):
        raise StudyError(f"{path} has the base {config!r}; it takes a configuration, its name or its path")
    beside = path.parent / config
    try:
        return _read(beside if beside.is_file() else config_path(config))
    except FileNotFoundError as error:
        raise StudyError(f"{path} has a base that cannot be found: {error}") from error


def _check_seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        raise StudyError(f"{path} has the seeds {seeds!r}; it takes a list of different integers >= 0")
    return tuple(seeds)


def _check_variants(path: Path, variants: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(variants, dict) or not variants:
        raise StudyError(f"{path} has the variants {variants!r}; it takes a mapping from names to overrides")
    for name, overrides in variants.items():
        if not _is_folder_name(name):
            raise StudyError(
                f"{path} has a variant {name!r}; it takes names that can be folders: letters, digits, '_', '-', '+', "
                "'=', and after the first '.', ',' and spaces"
            )
        if overrides is not None and not isinstance(overrides, dict):
            raise StudyError(
                f"{path} has the variant {name!r} with {overrides!r}; it takes a mapping from options of "
                "'mn-lightning fit' to values, as {trainer.max_epochs: 5}"
            )
    return {name: overrides or {} for name, overrides in variants.items()}


def _check_text(path: Path, key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if type(value) is int:  # as YAML reads `table: 6`
        return str(value)
    raise StudyError(f"{path} has the {key} {value!r}; it takes a text")


def _check_baseline(path: Path, study: Study) -> None:
    given = study.baseline
    named = list(given.values()) if isinstance(given, dict) else [given]
    for baseline in named:
        if not isinstance(baseline, str) or baseline not in study.variants:
            raise StudyError(
                f"{path} has the baseline {baseline!r}, which is no variant; the variants are {_list(study.variants)}"
            )
    if isinstance(given, str):
        return
    for variant in [*given, *study.variants]:
        if variant not in study.variants:
            raise StudyError(
                f"{path} has a baseline for {variant!r}, which is no variant; the variants are {_list(study.variants)}"
            )
        if variant in given and variant in named:
            raise StudyError(
                f"{path} has the baseline {given[variant]!r} for {variant!r}, which is a baseline itself; a baseline "
                "takes none"
            )
        if variant not in given and variant not in named:
            raise StudyError(f"{path} has no baseline for {variant!r}; it takes one of {_list(study.variants)}")


def _check_published(path: Path, study: Study, published: dict[str, dict[str, float]]) -> None:
    for variant, numbers in published.items():
        if variant not in study.variants:
            raise StudyError(
                f"{path} has published numbers for {variant!r}, which is no variant; the variants are "
                f"{_list(study.variants)}"
            )
        for key, number in numbers.items():
            if key not in PUBLISHED or isinstance(number, bool) or not isinstance(number, (int, float)):
                raise StudyError(
                    f"{path} has {key}: {number!r} published for {variant!r}; it takes numbers for "
                    f"{', '.join(PUBLISHED)}"
                )


def _check_references(path: Path, references: Any) -> None:
    named = isinstance(references, dict) and all(isinstance(name, str) for name in references)
    if not named or not all(isinstance(value, float) for value in references.values()):
        raise StudyError(f"{path} has the references {references!r}; it takes a mapping from names to numbers as 0.9")


def _check_inspect(path: Path, study: Study) -> None:
    options = ("layer", "channels", "samples")
    there = isinstance(study.inspect, dict) and all(
        variant in study.variants and isinstance(given, dict) and set(given) <= set(options)
        for variant, given in study.inspect.items()
    )
    if not there:
        raise StudyError(
            f"{path} has inspect: {study.inspect!r}; it takes a mapping from variants to {', '.join(options)}"
        )


def _check_places(path: Path, study: Study) -> None:
    prepared = {name: Path() for name in study.prepare}
    for variant in study.variants:
        try:
            study.arguments(variant, 0, prepared)
        except KeyError as error:
            raise StudyError(
                f"{path} has ${{prepare.{error.args[0]}}}, which it does not prepare; under prepare are "
                f"{_list(study.prepare) or 'none'}"
            ) from None
