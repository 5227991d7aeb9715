"""Standard output that is full or closed costs neither a run nor a traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import lightning.pytorch  # noqa: F401, its loggers must not be bound to one test's streams
import pytest

from mn_lightning.__main__ import main
from mn_lightning.cli.output import lasting_output

HAS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
LOST = [pytest.param("No space left on device", 1, marks=HAS_FULL), ("Broken pipe", 141)]
LINE = "mn-lightning: cannot write to standard output: {}; the command goes on, the rest of its output is lost\n"


def lost_output(why: str) -> IO[str]:
    if why == "No space left on device":
        return open("/dev/full", "w")
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stream in the place of standard output; returns a function for what standard error got."""

    def stand_in(output: Any) -> Any:
        errors = io.TextIOWrapper(io.BytesIO(), line_buffering=True)
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", errors)
        return lambda: errors.buffer.getvalue().decode()  # type: ignore[attr-defined]

    return stand_in


def print_much(status: int = 0) -> None:
    with lasting_output():
        for _ in range(3):
            print("x" * 10_000, flush=True)
        sys.stderr.write("at the end\n")
        sys.exit(status)


@pytest.mark.parametrize(("why", "status"), LOST)
def test_what_prints_goes_on(why: str, status: int, patch: Any) -> None:
    written = patch(lost_output(why))
    with pytest.raises(SystemExit) as caught:
        print_much()
    assert caught.value.code == status
    assert written() == LINE.format(why) + "at the end\n"


@pytest.mark.parametrize(("why", "status"), LOST)
def test_a_failure_keeps_its_own_status(why: str, status: int, patch: Any) -> None:
    patch(lost_output(why))
    with pytest.raises(SystemExit) as caught:
        print_much(status=2)
    assert caught.value.code == 2


@pytest.mark.parametrize(("why", "status"), LOST)
def test_a_run_is_not_lost(why: str, status: int, patch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.image_size=8"]
    monkeypatch.setattr(sys, "argv", ["mn-lightning", "fit", "--config=digits", *small])
    written = patch(lost_output(why))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    assert list(tmp_path.rglob("*.ckpt"))
    assert written().count("mn-lightning: cannot write") == 1
    assert "Traceback" not in written()


def test_output_that_arrives(tmp_path: Path, patch: Any) -> None:
    with (tmp_path / "out.txt").open("w", encoding="ascii") as stream:
        written = patch(stream)
        with lasting_output():
            print("first")
            print("λ", end="")
    assert (tmp_path / "out.txt").read_text() == "first\n\\u03bb"
    assert written() == ""


def test_standard_output_that_was_never_open(patch: Any) -> None:
    patch(None)
    with lasting_output():
        print("to nobody")
    sys.stdout.close()


@pytest.mark.processes
@HAS_FULL
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_command(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "mn_lightning", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (ended.returncode, ended.stderr) == (1, LINE.format("No space left on device"))
