"""What a study file says."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from mn_lightning.configs import config_path, study_path

Mode = Literal["max", "min"]
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the training after which Tables 2 and 4 of Kalayeh & Shah print the best score so far."""

PUBLISHED = (*(f"{fraction:.0%}" for fraction in FRACTIONS), "steps")
"""What a paper's numbers can be given for: best score after a share of the training, steps to the baseline's best."""

_FOLDER_NAME = re.compile(r"[\w+=-][\w+=., -]*")


class StudyError(ValueError):
    """A study that cannot be run as it is; the text is one line."""


@dataclass(frozen=True)
class Study:
    """A study file, checked and with everything that it refers to read in.

    Attributes:
        name: of the file, without its ending.
        base: configurations of ``mn-lightning fit``, the later over the earlier.
        variants: name to overrides, options of ``mn-lightning fit`` without their dashes.
        baseline: the variant that the others are compared to.
        metric: name of a logged metric.
        mode: whether more or less of it is better.
        seeds: a run of each variant for each of these.
        published: variant to a paper's numbers, by the keys in :data:`PUBLISHED`.
    """

    name: str
    base: tuple[dict[str, Any], ...]
    variants: dict[str, dict[str, Any]]
    baseline: str
    metric: str
    mode: Mode = "max"
    seeds: tuple[int, ...] = (0, 1, 2)
    published: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """All (variant, seed), a whole seed before the next, so that a study cut short can be compared too."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    def arguments(self, variant: str, seed: int) -> list[str]:
        """Return the command line of ``mn-lightning`` that is one run."""
        arguments = ["fit"]
        for config in self.base:
            arguments += ["--config", json.dumps(config)]
        arguments.append(f"--seed_everything={seed}")
        for option, value in self.variants[variant].items():
            arguments.append(f"--{option}={value if isinstance(value, str) else json.dumps(value)}")
        return arguments

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they come back from a YAML file."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def load_study(value: str) -> Study:
    """Read a study by the path of its file or, if it is shipped, by its name.

    Raises:
        StudyError: there is no such study, or the file does not hold one.
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
    base = content["base"] if isinstance(content["base"], list) else [content["base"]]
    content["base"] = tuple(_read_base(path, config) for config in base)
    content["seeds"] = _check_seeds(path, content.get("seeds", list(Study.seeds)))
    content["variants"] = _check_variants(path, content["variants"])
    study = Study(path.stem, **content)
    if study.baseline not in study.variants:
        raise StudyError(
            f"{path} has the baseline {study.baseline!r}, which is no variant; the variants are {_list(study.variants)}"
        )
    if study.mode not in get_args(Mode):
        raise StudyError(f"{path} has the mode {study.mode!r}; it takes {' or '.join(get_args(Mode))}")
    if not isinstance(study.metric, str):
        raise StudyError(f"{path} has the metric {study.metric!r}; it takes the name of one")
    _check_published(path, study)
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
        if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name):
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


def _check_published(path: Path, study: Study) -> None:
    for variant, numbers in study.published.items():
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
