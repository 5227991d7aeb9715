"""Checkpoints of every kind: what is read, and what is said of the others."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mn_lightning.utils.checkpoint_file import read_checkpoint


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    weights = {"weight": torch.arange(3.0)}
    content = {"state_dict": weights, "pytorch-lightning_version": "2.6.1", "callbacks": {"a": [1, "b", None]}}
    torch.save(content, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(found.pop("state_dict")["weight"], content.pop("state_dict")["weight"])
    assert found == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "hyper_parameters": Command()}, "holds Python objects, which could run code"),
        ({"state_dict": {}}, "is not one of Lightning's, which hold 'state_dict'"),
        ({"weight": torch.ones(2)}, "is not one of Lightning's, which hold 'state_dict'"),
        (torch.ones(2), "is not one of Lightning's, which hold 'state_dict'"),
        (b"no checkpoint", "is damaged or no checkpoint"),
        (b"", "is damaged or no checkpoint"),
        (None, "is damaged or no checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"state_dict": {"weight": torch.ones(99)}} if content is None else content, path)
    if content is None:
        path.write_bytes(path.read_bytes()[:300])  # as an interrupted copy is
    with pytest.raises(ValueError, match=r"^checkpoint '.*a.ckpt' ") as caught:
        read_checkpoint(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.ckpt"):
        with pytest.raises(ValueError, match=r"is not there; give the path of a .ckpt file"):
            read_checkpoint(path)
