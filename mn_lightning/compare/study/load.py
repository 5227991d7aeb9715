"""Read a study's file, and check everything that can be checked without a training."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from mn_lightning.compare.study.study import PUBLISHED, Mode, Study, StudyError
from mn_lightning.configs import config_path, study_path
from mn_lightning.utils.strict_yaml import PlainLoader, fault
from mn_lightning.utils.text import shown

_FOLDER_NAME = re.compile(r"[\w+=]([\w+=., -]*[\w+=-])?")
_LONGEST_NAME = 100
_MOST_BYTES = 1_000_000
_OPTION = re.compile(r"[A-Za-z_][^\s=]*")
_OPTIONS = "options are those of 'mn-lightning fit' without their dashes, such as trainer.max_epochs"
_NOT_A_VARIANTS = {
    "seed_everything": "all its runs would be equal; a study's seeds stand under seeds alone",
    "config": "it would hide what the variant changes; write the options themselves",
    "help": _OPTIONS,
    "print_config": _OPTIONS,
}
_INSPECT: dict[str, Callable[[Any], bool]] = {
    "layer": lambda value: isinstance(value, str),
    "channels": lambda value: isinstance(value, list) and all(type(channel) is int for channel in value),
    "samples": lambda value: type(value) is int and value > 0,
}
_MAPPINGS = {
    "published": "from variants to numbers, such as {MN: {100%: 0.9}}",
    "prepare": "from names to configurations",
    "references": "from names to numbers as 0.9",
    "inspect": "from variants to layer, channels, samples: {MN: {layer: conv3, channels: [0, 5], samples: 512}}",
    "also": "from metrics to published numbers",
}
"""Keys whose value is a mapping, and from what to what it maps."""


def load_study(value: str) -> Study:
    """Read a study by the path of its file or, if it is shipped, by its name.

    Args:
        value: such as ``"my_study.yaml"`` or ``"digits"``.

    Returns:
        The study, with the content of its bases.

    Raises:
        StudyError: there is no such study, or the file does not hold a study.

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
    if path.stem != path.stem.encode(errors="replace").decode():
        raise StudyError(f"{path} has a name that is not UTF-8, and the study takes the file's name; rename it")
    prepared = content.get("prepare")
    for configs in (content.get("base"), *(prepared.values() if isinstance(prepared, dict) else ())):
        # A configuration file may have a seed for `mn-lightning fit`. The study's seeds replace it.
        if any("seed_everything" in config for config in _listed(configs) if isinstance(config, dict)):
            raise StudyError(
                f"{path} gives seed_everything in a configuration; a study's seeds stand under seeds alone"
            )
    return study_of(path, path.stem, content)


def study_of(path: Path, name: str, content: dict[str, Any]) -> Study:
    """Check the content of a study's file, and return it as a study.

    Args:
        path: of the file, for messages; bases that are files are looked for in its folder.
        name: of the study.
        content: of the file, as plain values.

    Raises:
        StudyError: the content is not a study.
    """
    known = [entry.name for entry in fields(Study) if entry.name != "name"]
    unknown = [key for key in content if key not in known]
    missing = [key for key in ("base", "variants", "baseline", "metric") if key not in content]
    if unknown:
        raise StudyError(f"{path} has the key {', '.join(map(shown, unknown))}; a study has {', '.join(known)}")
    if missing:
        raise StudyError(f"{path} lacks the key {', '.join(map(repr, missing))}; a study has {', '.join(known)}")
    content = {**content, "base": _read_bases(path, content["base"])}
    for key, mapping in _MAPPINGS.items():
        if content.get(key) is None:
            content.pop(key, None)
        elif not isinstance(content[key], dict):
            raise StudyError(f"{path} has {key}: {shown(content[key])}; it takes a mapping {mapping}")
    content["prepare"] = _read_prepare(path, content.get("prepare", {}))
    content["seeds"] = _check_seeds(path, content.get("seeds", list(Study.seeds)))
    content["variants"] = _check_variants(path, content["variants"])
    for key in ("paper", "table"):
        content[key] = _check_text(path, key, content.get(key))
    study = Study(name, **content)
    _check_baseline(path, study)
    if study.mode not in get_args(Mode):
        raise StudyError(f"{path} has the mode {shown(study.mode)}; it takes {' or '.join(get_args(Mode))}")
    if not isinstance(study.metric, str) or not study.metric:
        raise StudyError(f"{path} has the metric {shown(study.metric)}; it takes the name of one")
    if study.images is not None and (type(study.images) is not int or study.images < 1):
        raise StudyError(f"{path} has the images {shown(study.images)}; it takes their number, 1 or more")
    if not isinstance(study.current_statistics, bool):
        raise StudyError(f"{path} has current_statistics: {shown(study.current_statistics)}; it takes true or false")
    if not all(isinstance(name, str) for name in study.also):
        raise StudyError(f"{path} has also: {shown(study.also)}; it takes a mapping {_MAPPINGS['also']}")
    study = replace(study, also={name: numbers or {} for name, numbers in study.also.items()})
    for key, numbers in (
        ("published", study.published),
        *((f"also {name}", more) for name, more in study.also.items()),
    ):
        _check_published(path, study, key, numbers)
    _check_references(path, study.references)
    _check_inspect(path, study)
    _check_places(path, study)
    return study


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(map(str, names))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise StudyError(f"{path} has more than {_MOST_BYTES:,} bytes; give a study's or configuration's file")
        content = yaml.load(path.read_bytes().decode(), PlainLoader)
    except StudyError:
        raise
    except Exception as error:  # errors of many kinds, because anything may stand in a file
        raise StudyError(f"{path} {fault(error)}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} {'is empty' if content is None else 'holds ' + shown(content)}; it takes a mapping")
    return content


def _read_bases(path: Path, configs: Any) -> tuple[dict[str, Any], ...]:
    return tuple(_read_base(path, config) for config in _listed(configs))


def _listed(configs: Any) -> list[Any]:
    return configs if isinstance(configs, list) else [configs]


def _read_prepare(path: Path, prepare: dict[Any, Any]) -> dict[str, tuple[dict[str, Any], ...]]:
    _check_names(path, "a preparation", prepare)
    return {name: _read_bases(path, configs) for name, configs in prepare.items()}


def _check_names(path: Path, what: str, names: Mapping[Any, Any]) -> None:
    """Check that any file system can hold a folder for each name."""
    before: dict[str, str] = {}
    for name in names:
        _check_name(path, what, name)
        other = before.setdefault(name.casefold(), name)
        if other != name:
            raise StudyError(
                f"{path} has {what} {other!r} and {what} {name!r}, which would share a folder where a file system does "
                "not tell case; rename one of them"
            )


def _check_name(path: Path, what: str, name: Any) -> None:
    if not isinstance(name, str) or _FOLDER_NAME.fullmatch(name) is None or len(name.encode()) > _LONGEST_NAME:
        raise StudyError(
            f"{path} has {what} {shown(name)}; it takes names that can be folders: at most {_LONGEST_NAME} letters, "
            "digits, '_', '+', '=', and after the first '-', '.', ',' and spaces"
        )


def _read_base(path: Path, config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    if not isinstance(config, str):
        raise StudyError(f"{path} has the base {shown(config)}; it takes a configuration, its name or its path")
    try:
        found = beside if os.path.isfile(beside := path.parent / config) else config_path(config)
    except FileNotFoundError as error:
        raise StudyError(f"{path} has a base that cannot be found: {error}") from error
    return _read(found)


def _check_seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        raise StudyError(f"{path} has the seeds {shown(seeds)}; it takes a list of different integers >= 0")
    return tuple(seeds)


def _check_variants(path: Path, variants: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(variants, dict) or not variants:
        raise StudyError(f"{path} has the variants {shown(variants)}; it takes a mapping from names to overrides")
    _check_names(path, "a variant", variants)
    for name, overrides in variants.items():
        if overrides is not None and not isinstance(overrides, dict):
            raise StudyError(
                f"{path} has the variant {name!r} with {shown(overrides)}; it takes a mapping from options of "
                "'mn-lightning fit' to values, such as {trainer.max_epochs: 5}"
            )
        for option in overrides or ():
            if not isinstance(option, str) or _OPTION.fullmatch(option) is None:
                raise StudyError(
                    f"{path} has the variant {name!r} with {shown(option)}, which is not an option; {_OPTIONS}"
                )
            if option in _NOT_A_VARIANTS:
                raise StudyError(f"{path} has the variant {name!r} with {option}; {_NOT_A_VARIANTS[option]}")
    return {name: overrides or {} for name, overrides in variants.items()}


def _check_text(path: Path, key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if type(value) is int:  # YAML reads `table: 6` as a number
        return str(value)
    raise StudyError(f"{path} has the {key} {shown(value)}; it takes a text")


def _check_baseline(path: Path, study: Study) -> None:
    given = study.baseline
    named = list(given.values()) if isinstance(given, dict) else [given]
    for baseline in named:
        if not isinstance(baseline, str) or baseline not in study.variants:
            raise StudyError(
                f"{path} has the baseline {shown(baseline)}, which is not a variant; the variants are "
                f"{_list(study.variants)}"
            )
    if isinstance(given, str):
        return
    for variant in [*given, *study.variants]:
        if variant not in study.variants:
            raise StudyError(
                f"{path} has a baseline for {shown(variant)}, which is not a variant; the variants are "
                f"{_list(study.variants)}"
            )
        if variant in given and variant in named:
            raise StudyError(
                f"{path} has the baseline {given[variant]!r} for {variant!r}, which is a baseline itself; a baseline "
                "takes none"
            )
        if variant not in given and variant not in named:
            raise StudyError(f"{path} has no baseline for {variant!r}; it takes one of {_list(study.variants)}")


def _check_published(path: Path, study: Study, key: str, published: Any) -> None:
    if not isinstance(published, dict) or not all(isinstance(numbers, dict) for numbers in published.values()):
        raise StudyError(f"{path} has {key}: {shown(published)}; it takes a mapping {_MAPPINGS['published']}")
    for variant, numbers in published.items():
        if variant not in study.variants:
            raise StudyError(
                f"{path} has published numbers for {shown(variant)}, which is not a variant; the variants are "
                f"{_list(study.variants)}"
            )
        for name, number in numbers.items():
            if name not in PUBLISHED or isinstance(number, bool) or not isinstance(number, (int, float)):
                raise StudyError(
                    f"{path} has {shown(name)}: {shown(number)} published for {variant!r}; it takes numbers for "
                    f"{', '.join(PUBLISHED)}"
                )


def _check_references(path: Path, references: dict[Any, Any]) -> None:
    if not all(isinstance(name, str) and isinstance(value, float) for name, value in references.items()):
        raise StudyError(f"{path} has the references {shown(references)}; it takes a mapping {_MAPPINGS['references']}")


def _check_inspect(path: Path, study: Study) -> None:
    for variant, given in study.inspect.items():
        if (
            variant not in study.variants
            or not isinstance(given, dict)
            or not all(name in _INSPECT and _INSPECT[name](value) for name, value in given.items())
        ):
            raise StudyError(f"{path} has inspect: {shown(study.inspect)}; it takes a mapping {_MAPPINGS['inspect']}")


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
