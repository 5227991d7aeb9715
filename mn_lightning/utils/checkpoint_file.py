"""Read a checkpoint's file, whatever it is: numbers and plain values, never code."""

import os
import re
from typing import Any

import torch


class DamagedCheckpointError(ValueError):
    """The file holds no checkpoint, or a part of one."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of Lightning's onto the CPU.

    Args:
        path: of the file.

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
        content = torch.load(name, map_location="cpu", weights_only=True)
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
            f"checkpoint {name!r} is none of Lightning's, which hold 'state_dict' and 'pytorch-lightning_version'; "
            "give a file that a Trainer saved"
        )
    return content
