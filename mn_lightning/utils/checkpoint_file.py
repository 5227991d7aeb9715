"""Read a checkpoint's file, whatever it is: numbers and plain values, never code."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch


class DamagedCheckpointError(ValueError):
    """The file holds no checkpoint, or a part of one."""


def read_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of Lightning's onto the CPU.

    Args:
        path: of the file.
        mmap: leave tensors in the file until they are needed.

    Returns:
        Its content; ``state_dict`` is among it.

    Raises:
        ValueError: there is no such file, it cannot be read, it holds objects other than tensors and plain values, or
            it is no checkpoint of Lightning's; in one line. Of what can be saved again alone, as it is damaged, a
            DamagedCheckpointError.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ValueError(f"checkpoint {name!r} is not there; give the path of a .ckpt file")
    try:
        content = torch.load(name, map_location="cpu", weights_only=True, mmap=mmap)
    except PermissionError as error:
        raise ValueError(f"checkpoint {name!r} cannot be read: permission denied") from error
    except Exception as error:  # a damaged file makes torch, zip and pickle raise errors of many kinds
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise ValueError(
                f"checkpoint {name!r} holds Python objects, which could run code; save one of tensors and plain values "
                "(without save_hyperparameters of objects, for example)"
            ) from error
        raise DamagedCheckpointError(
            f"checkpoint {name!r} is damaged or no checkpoint; copy or save it again"
        ) from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("state_dict"), dict)
        or not isinstance(content.get("pytorch-lightning_version"), str)
    ):
        raise DamagedCheckpointError(
            f"checkpoint {name!r} is not one of Lightning's, which hold 'state_dict' and 'pytorch-lightning_version'; "
            "give a file that a Trainer saved"
        )
    return content


def arguments_for_loading(path: Any, arguments: Mapping[str, Any], weights_only: bool | None) -> dict[str, Any]:
    """Complete the arguments of Lightning's ``load_from_checkpoint`` so that the file brings numbers only.

    Hyperparameters in the file that are plain values are given to the class, as Lightning does. Lightning's command
    line also saves the names of classes, and Lightning would import and build them: here they are not.

    Args:
        path: of the file, an address or an open file; only a local file is looked into.
        arguments: of the class, as the user gives them.
        weights_only: as the user gives it; False trusts the file.

    Raises:
        ValueError: the file is no checkpoint, or names classes for arguments that the user has not given.
    """
    if weights_only is False:
        return {**arguments, "weights_only": False}
    if isinstance(path, (str, os.PathLike)) and "://" not in str(path):
        saved: Any = read_checkpoint(path, mmap=True).get("hyper_parameters")
        for name, value in saved.items() if isinstance(saved, Mapping) else ():
            named = next(_classes_in(value), None)
            if named is not None and name not in arguments:
                raise ValueError(
                    f"checkpoint {str(path)!r} names the class {named} for {name}, and a file builds nothing; give it, "
                    f"as load_from_checkpoint(path, {name}=...), or weights_only=False if you trust the file"
                )
    return {**arguments, "weights_only": True, "_instantiator": None}


def _classes_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _classes_in(part)
