"""One run's supervisor, with processes that are no runs: what they do is said by a small script."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mn_lightning.compare.runs import session as session_module
from mn_lightning.compare.runs import supervise as supervise_module
from mn_lightning.compare.runs.session import Session, Watch
from mn_lightning.compare.runs.supervise import INTERRUPTED, Slot, Task, supervise

pytestmark = pytest.mark.processes


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the module that a run's process executes."""
    package = tmp_path / "mn_lightning" / "compare" / "runs"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setattr(supervise_module, "GRACE", 0.5)
    return package / "__main__.py"


def task(folder: Path, session: Session, *slots: Slot, number: int = 0, **environment: str) -> Task:
    environment = {"PYTHONPATH": str(folder), **environment}
    return Task(number, ("study", "BN", "0"), folder / "log.txt", session.path, folder, environment, slots)


def in_thread(*tasks: Task) -> tuple[list[threading.Thread], list[tuple[int, int | str]]]:
    """Tests stay in the main thread, as joblib's workers do not."""
    ended: list[tuple[int, int | str]] = []
    threads = [threading.Thread(target=lambda one=one: ended.append(supervise(one))) for one in tasks]
    for thread in threads:
        thread.start()
    return threads, ended


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("code", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_the_status_is_that_of_the_process(script: Path, tmp_path: Path, code: str, status: int) -> None:
    script.write_text(f"import os, sys\nprint(sys.argv[1:], flush=True)\nprint('wrong', file=sys.stderr)\n{code}")
    threads, ended = in_thread(task(tmp_path, Session(tmp_path), number=4))
    threads[0].join(60)
    assert ended == [(4, status)]
    assert sorted((tmp_path / "log.txt").read_text().splitlines()) == ["['study', 'BN', '0', '--leash']", "wrong"]


@pytest.mark.parametrize("end", ["stop", "close"])
def test_a_process_that_ignores_the_request_is_killed_with_its_children(script: Path, tmp_path: Path, end: str) -> None:
    script.write_text(
        "import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "open('pids.new', 'w').write(f'{os.getpid()} {child.pid}'); os.rename('pids.new', 'pids'); time.sleep(300)"
    )
    session = Session(tmp_path)
    threads, ended = in_thread(task(tmp_path, session))
    wait_for(tmp_path / "pids")
    getattr(session, end)()
    threads[0].join(60)
    assert ended == [(0, INTERRUPTED)]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 30  # the system takes a moment to end what was killed
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_nothing_is_started_after_the_end_of_the_session(script: Path, tmp_path: Path) -> None:
    script.write_text("open('started', 'w')")
    session = Session(tmp_path)
    session.stop()
    threads, ended = in_thread(task(tmp_path, session))
    threads[0].join(60)
    assert ended == [(0, INTERRUPTED)]
    assert not (tmp_path / "started").exists()


def test_a_session_without_a_sign_of_life_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 1.0, 50.0, 50.0, 109.0, 111.0])
    monkeypatch.setattr(session_module.time, "monotonic", lambda: next(times))
    session = Session(tmp_path)
    watch = Watch(session.path)
    assert not watch.is_stopped()  # at 1, where the content is new
    session.beat()
    assert not watch.is_stopped()  # at 50, where it has changed
    assert not watch.is_stopped()  # at 109
    assert watch.is_stopped()  # at 111, more than a minute after the change


def test_runs_at_the_same_time_have_a_slot_each(script: Path, tmp_path: Path) -> None:
    script.write_text(
        "import os, sys, time\n"
        "where = f\"{sorted(os.sched_getaffinity(0))} {os.environ['CUDA_VISIBLE_DEVICES']}\"\n"
        "open(os.environ['NAME'], 'w').write(where)\nwhile not os.path.exists('go'): time.sleep(0.05)\nsys.exit(0)"
    )
    cores = sorted(os.sched_getaffinity(0))
    slots = Slot((cores[0],), "0"), Slot((cores[-1],), "1")
    session = Session(tmp_path)
    tasks = [task(tmp_path, session, *slots, number=i, NAME=f"run-{i}") for i in range(3)]
    threads, ended = in_thread(*tasks[:2])
    for i in range(2):
        wait_for(tmp_path / f"run-{i}")
    third, ended_third = in_thread(tasks[2])
    time.sleep(0.5)
    assert not (tmp_path / "run-2").exists()  # there is no third slot
    (tmp_path / "go").touch()
    for thread in [*threads, *third]:
        thread.join(60)
    assert sorted([*ended, *ended_third]) == [(0, 0), (1, 0), (2, 0)]
    assert {(tmp_path / f"run-{i}").read_text()[-1] for i in range(2)} == {"0", "1"}


def test_a_run_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    """The other end of the leash, in a process that ignores everything but its end."""
    code = (
        "import time\nfrom mn_lightning.compare.runs.supervise import end_with_standard_input\n"
        "end_with_standard_input()\nprint('ready', flush=True)\ntime.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(60) == -15
    process.stdout.close()


def test_a_file_beside_the_study_takes_no_standard_modules_place(script: Path, tmp_path: Path) -> None:
    """A user's own module is found all the same."""
    (tmp_path / "random.py").write_text("raise SystemExit(9)")
    (tmp_path / "mine.py").touch()
    script.write_text("import random, sys\nimport mine\nsys.exit(0 if hasattr(random, 'random') else 8)")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "mn_lightning").rename(elsewhere / "mn_lightning")
    threads, ended = in_thread(task(tmp_path, Session(tmp_path), PYTHONPATH=str(elsewhere)))
    threads[0].join(60)
    assert ended == [(0, 0)], (tmp_path / "log.txt").read_text()


def test_a_process_that_cannot_be_started_is_one_runs_failure(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    threads, ended = in_thread(task(tmp_path, Session(tmp_path), number=3))
    threads[0].join(60)
    ((number, status),) = ended
    assert number == 3
    assert status == f"its process could not be started: Is a directory: {tmp_path / 'log.txt'}"
