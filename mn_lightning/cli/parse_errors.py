"""Turn jsonargparse's errors, which list everything that was tried, into one line that says what to change."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import lightning.pytorch.callbacks
import torch.optim
import yaml

import mn_lightning.callbacks
import mn_lightning.data
import mn_lightning.models
from mn_lightning.cli.arguments import config_files, nearest
from mn_lightning.configs import config_names
from mn_lightning.utils.text import in_one_line

_KEY = re.compile(r'Parser key "(.+?)":')
_CLASS = re.compile(r"Problem with given class_path '(.+)'")
_OPTION = re.compile(r"Option '(.+)' is not accepted")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (.+)")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_TYPE = re.compile(r"Expected an? (?:<class '(.+?)'>|typing\.(Literal\[.+?\]))(?:\. Got value: (.*))?$")
_UNKNOWN_KEY = re.compile(r"Subcommand '\w+' does not accept option '(.+)'")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (.+)")
_GIVEN = re.compile(r"Given value: (.+)")
_NESTED = re.compile(r"NestedArg\(key='(.+?)', val=(.+)\)")
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Not a valid subclass|Subclass types expect"
    r"|a class path \(|a dict with|Expected a path but|Expected a <class 'NoneType'>"
)


def explain(message: str, command: str, args: Sequence[str], options: Iterable[str] = ()) -> str:
    """Say in one line what does not parse.

    Args:
        message: of jsonargparse's error.
        command: as ``"fit"``.
        args: the command's arguments, to name the file in which a key stands.
        options: all options of the command, to name the most similar one.
    """
    if found := _UNRECOGNIZED.search(message):
        given = found[1].split()[0].partition("=")[0]
        return f"{command} does not take {found[1]!r}{nearest(given, options)}see mn-lightning {command} --help"
    if found := _UNKNOWN_KEY.search(message):
        keys = [option.removeprefix("--") for option in options]
        return f"{_place(found[1], args)}{command} has no setting {found[1]!r}{nearest(found[1], keys)}" + (
            f"mn-lightning {command} --help all lists them"
        )
    keys, classes, reasons = _read(message)
    required = next((_REQUIRED.search(reason) for reason in reasons if _REQUIRED.search(reason)), None)
    if required and not classes:
        return _missing(command, [name.removeprefix(f"{command}.") for name in required[1].split(", ")])
    key = ".".join(keys)
    reason = _reason(reasons, classes, message)
    if reason is None:
        return in_one_line(message)
    return f"{_place(keys[0] if keys else '', args)}{key}: {reason}" if key else reason


def _read(message: str) -> tuple[list[str], list[str], list[str]]:
    """Extract keys, the classes around the fault, and reasons from a message; drop alternatives that say nothing."""
    keys: list[str] = []
    classes: list[str] = []
    reasons: list[str] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if found := _KEY.search(text):
            if found[1] not in keys:
                keys.append(found[1])
            text = text[found.end() :].strip()
        if found := _CLASS.search(text):
            if found[1] not in classes:
                classes.append(found[1])
        elif text and not _NOISE.match(text):
            reasons.append(text)
    return keys, classes, reasons


def _reason(reasons: Sequence[str], classes: Sequence[str], message: str) -> str | None:
    for reason in reasons:
        if found := _OPTION.search(reason):
            return _unknown_argument(found[1], classes)
    for reason in reasons:
        if (found := _REQUIRED.search(reason)) and classes:
            return f"{_short(classes[-1])} needs {found[1]}"
    for reason in reasons:
        if found := _UNKNOWN_CLASS.search(reason):
            hint = nearest(found[1], known_classes())
            return f"there is no class {found[1]!r}{hint}write your own with its module, such as my_module.MyClass"
    types = [found for reason in reasons if (found := _TYPE.search(reason))]
    if types:
        accepted = " or ".join(dict.fromkeys(_type_name(found[1] or found[2]) for found in types))
        return f"got {types[0][3] or _given(message)}; it takes {accepted}"
    if "Not a valid subclass" in message:
        return f"got {_given(message)}; it takes the name of a class, or class_path and init_args"
    return in_one_line(reasons[0]) if reasons else None


def _unknown_argument(name: str, classes: Sequence[str]) -> str:
    if not classes:
        return f"{name!r} is not accepted"
    taken = _arguments_of(classes[-1])
    text = f"{_short(classes[-1])} has no argument {name!r}{nearest(name, taken)}it takes {', '.join(taken)}"
    if _short(classes[-1]) == "NormSwapCallback":
        text += "; arguments of the norm stand under the layers' names, for example layers: {all: {n_components: 3}}"
    return text


def _missing(command: str, names: Sequence[str]) -> str:
    if names == ["model"]:
        shipped = ", ".join(config_names())
        return f"no model is given; write --config FILE, --config NAME (shipped are {shipped}), or --model CLASS"
    options = " and ".join(f"--{name}" for name in names)
    return f"{command} needs {options}; mn-lightning {command} --help shows an example"


def _place(key: str, args: Sequence[str]) -> str:
    """Name the configuration file that gives ``key``, unless the command line gives it."""
    if not key or any(arg.startswith(f"--{key}") for arg in args):
        return ""
    for file in reversed(config_files(args)):
        try:
            with open(file, encoding="utf-8") as opened:
                content: Any = yaml.safe_load(opened)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for part in key.split("."):
            content = content.get(part) if isinstance(content, Mapping) else None
        if content is not None:
            return f"{file}: "
    return ""


def _given(message: str) -> str:
    found = _GIVEN.findall(message)
    if not found:
        return "another value"
    nested = _NESTED.match(found[-1])
    return in_one_line(nested[2] if nested else found[-1])


def _type_name(name: str) -> str:
    if name.startswith("Literal"):
        return name.removeprefix("Literal[").rstrip("]")
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(name, name)


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _arguments_of(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    return [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def known_classes() -> dict[str, Any]:
    """Return the classes that can be given by their names, without a module."""
    packages = (lightning.pytorch.callbacks, mn_lightning.callbacks, mn_lightning.data, mn_lightning.models)
    found = {name: getattr(package, name) for package in packages for name in package.__all__}
    return {**{name: value for name, value in vars(torch.optim).items() if isinstance(value, type)}, **found}
