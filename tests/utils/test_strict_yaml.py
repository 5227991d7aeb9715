"""What YAML is taken, and how the rest is named."""

import pytest
import yaml

from mn_lightning.utils.strict_yaml import PlainLoader, StrictLoader, fault


def fault_of(text: str, loader: type[StrictLoader] = StrictLoader) -> str:
    try:
        yaml.load(text, loader)
    except Exception as error:
        return fault(error)
    raise AssertionError(f"{text} is taken")


@pytest.mark.parametrize(
    "text", ["a: 1\nb: [1, x, 2.5, null, true]\n", "x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: [*x, *x]", "1"]
)
def test_what_is_taken_is_read_as_by_pyyaml(text: str) -> None:
    assert yaml.load(text, StrictLoader) == yaml.load(text, PlainLoader) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 1", "gives 'c' twice, at lines 3 and 4; keep one of them"),
        ("a: &a [*a]", "contains itself"),
        ("{a: " * 101 + "1" + "}" * 101, "has more than 100 levels of values in values at line 1"),
        ("a: !!python/name:os.system x", "has a tag of Python's at line 1"),
        ('a: "\\ud83d"', "has half of a character at line 1"),
        ("a: [", "is not YAML at line 1, column 5: "),
        ("a: !!int ''", "is not YAML: "),
        ("? [1]\n: 2", "is not YAML at line 1, column 3: found unhashable key"),
    ],
)
def test_what_is_refused(text: str, start: str) -> None:
    assert fault_of(text).startswith(start)
    assert "\n" not in fault_of(text)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("\na: 2024-03-01", "has a timestamp at line 2: 2024-03-01; for a text write '2024-03-01'"),
        ("a: !!binary eA==", "has a binary at line 1"),
        ("a: !!set {x}", "has a set at line 1; write a list or a mapping"),
        ("a: -.inf", "has a float at line 1: -.inf"),
        ("{1: 2, true: 3}", "has a key at line 1 that is not a name: 'true'"),
    ],
)
def test_what_json_cannot_hold(text: str, start: str) -> None:
    yaml.load(text, StrictLoader)
    assert fault_of(text, PlainLoader).startswith(start)
