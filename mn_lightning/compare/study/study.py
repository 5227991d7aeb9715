"""Definition of a study: variants of one training, seeds, and the metric by which they are compared."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

Mode = Literal["max", "min"]
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the training after which Tables 2 and 4 of Kalayeh & Shah print the best score so far."""

PUBLISHED = (*(f"{fraction:.0%}" for fraction in FRACTIONS), "steps", "std")
"""Kinds of published numbers: best score after a share of the training, steps to the baseline's best, and the standard
deviation of the best score over runs."""

_CURRENT_STATISTICS = "CurrentStatisticsCallback"
_PREPARED = re.compile(r"\$\{prepare\.(.*)\}")


class StudyError(ValueError):
    """A study that cannot be run. The text is one line."""


class Limits(NamedTuple):
    """Upper limits, for small machines.

    Attributes:
        epochs: of a run.
        samples: training samples in an epoch.
    """

    epochs: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Study:
    """A study file, checked, with the content of everything that it refers to.

    Attributes:
        name: name of the file, without its ending.
        base: configurations of ``mn-lightning fit``; a later one overrides an earlier one.
        variants: name to overrides, which are options of ``mn-lightning fit`` without their dashes.
        baseline: the variant to which all others are compared; or a mapping from each variant, except the baselines
            themselves, to the one to which it is compared.
        metric: name of a logged metric.
        mode: ``"max"`` if more of it is better, ``"min"`` if less.
        seeds: each variant has a run with each of these.
        published: variant to a paper's numbers for it, by the keys in :data:`PUBLISHED`.
        prepare: name to the configurations of a model that is trained once, before all runs. ``${prepare.NAME}`` in
            base or variants stands for the path of its last checkpoint.
        paper: the paper whose experiment it is.
        table: the table in the paper, such as ``"2 and 3"``.
        images: number of training images in an epoch, if the data module would have to read them to know it.
        inspect: variants whose layers the report draws, of the first seed that has finished: name to options of
            :func:`~mn_lightning.inspection.inspect.inspect`, ``layer``, ``channels`` and ``samples``.
        references: other values of the metric that a paper prints beside its own: name to value.
        also: other logged metrics to report, which are better in the same direction: name to their published numbers.
        current_statistics: whether every run gets a
            :class:`~mn_lightning.callbacks.CurrentStatisticsCallback`, and the report both views of the metric.
    """

    name: str
    base: tuple[dict[str, Any], ...]
    variants: dict[str, dict[str, Any]]
    baseline: str | dict[str, str]
    metric: str
    mode: Mode = "max"
    seeds: tuple[int, ...] = (0, 1, 2)
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    prepare: dict[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    paper: str | None = None
    table: str | None = None
    images: int | None = None
    references: dict[str, float] = field(default_factory=dict)
    inspect: dict[str, dict[str, Any]] = field(default_factory=dict)
    also: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    current_statistics: bool = False

    def baseline_of(self, variant: str) -> str:
        """Return the variant to which this one is compared. A baseline is compared to itself."""
        return self.baseline if isinstance(self.baseline, str) else self.baseline.get(variant, variant)

    @property
    def baselines(self) -> list[str]:
        """The variants to which others are compared, in the order of the variants."""
        return [variant for variant in self.variants if variant == self.baseline_of(variant)]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """All pairs (variant, seed). One seed comes after another, so that an unfinished study can be compared."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    def arguments(self, variant: str, seed: int, prepared: Mapping[str, Path] | None = None) -> list[str]:
        """Return the command line of ``mn-lightning`` that is one run.

        Args:
            variant: name of the variant.
            seed: one of the study's, or another one.
            prepared: the checkpoint for each name in ``prepare``; None leaves ``${prepare.NAME}`` as it is.
        """
        base, overrides = list(self.base), self.variants[variant]
        if prepared is not None:
            base, overrides = _filled(base, prepared), _filled(overrides, prepared)
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in overrides.items()}
        options = [f"--{option}={text}" for option, text in texts.items()]
        # After the variant's own options, because some of them replace the list of callbacks.
        if self.current_statistics and not any(_CURRENT_STATISTICS in text for text in (json.dumps(base), *options)):
            options.append(f"--trainer.callbacks+={_CURRENT_STATISTICS}")
        return _fit(base, options, seed)

    def preparation(self, name: str) -> list[str]:
        """Return the command line of ``mn-lightning`` that trains the preparation ``name``."""
        return _fit(self.prepare[name], [], 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain values, for a YAML or JSON file."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Study":
        """Return the study from the values that :meth:`to_dict` returned."""
        prepare = {name: tuple(configs) for name, configs in values.get("prepare", {}).items()}
        return cls(**{**values, "base": tuple(values["base"]), "seeds": tuple(values["seeds"]), "prepare": prepare})


def variant_label(study: Study, variant: str) -> str:
    """Return the name of a variant for messages."""
    return f"the variant {variant!r} of the study {study.name!r}"


def _fit(configs: Iterable[dict[str, Any]], options: Iterable[str], seed: int) -> list[str]:
    """Return a command line. The seed comes last, so that nothing can override it."""
    given = [option for config in configs for option in ("--config", json.dumps(config))]
    return ["fit", *given, *options, f"--seed_everything={seed}"]


def _filled(value: Any, prepared: Mapping[str, Path]) -> Any:
    """Replace each ``${prepare.NAME}`` by the path of that checkpoint."""
    if isinstance(value, dict):
        return {key: _filled(entry, prepared) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, prepared) for entry in value]
    if isinstance(value, str) and (place := _PREPARED.fullmatch(value)):
        return str(prepared[place[1]])
    return value
