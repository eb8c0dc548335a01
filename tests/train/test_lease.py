"""One process at a time: the second is refused and told of the first, a dead one's lock is taken over."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SST2, write_rows
from tests.setting_files import as_task
from zofo import InputError, evaluate, export, finetune, generate, meta_test
from zofo.api.convert import convert
from zofo.errors import RunError
from zofo.models.sealed import check_export
from zofo.train import lease, trees
from zofo.train.lease import NAME, Lease, refuse_in_use

HOLD = """
import sys, time
from pathlib import Path
from zofo.train.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(directory: Path, seconds: float = 600) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = hold(tmp_path / "out")
    yield process
    process.kill()
    process.wait()


def train(model: Path, rows: Path, out: Path, **options: Any) -> Any:
    return finetune(
        str(model), str(rows), {"name": "mezo", "lr": 1e-4}, output_dir=out, max_steps=4, batch_size=4, **options
    )


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_second_process_is_refused_and_told_of_the_first(
    options: dict[str, Any],
    holder: subprocess.Popen[str],
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
) -> None:
    with pytest.raises(InputError, match=rf"out: in use by process {holder.pid} on {socket.gethostname()} since 20"):
        train(tiny_model_dir, sentiment_file, tmp_path / "out", **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME], "nothing was written or deleted"
    assert holder.poll() is None


@pytest.mark.parametrize("verb", ["export", "export over another", "meta-test", "data meta", "data meta over another"])
def test_other_verbs_that_write_a_directory(
    verb: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, small_setting: Path
) -> None:
    """Each names the one that is at it, and changes nothing there; afterwards it works, and leaves no lock."""
    out = tmp_path / "out"
    if verb.startswith("export"):
        run = train(tiny_model_dir, sentiment_file, tmp_path / "run")
        if verb != "export":
            run.export(out)
        act: Callable[[], Any] = partial(export, run.path, out, overwrite=True)
    elif verb == "meta-test":
        act = partial(meta_test, str(tiny_model_dir), **as_task(small_setting), ways=["zero-shot"], output=out)
    else:
        write_rows(tmp_path / "sst2" / "train.jsonl", SST2)
        act = partial(convert, ["sst2"], out, tmp_path / "sst2")
        if verb != "data meta":
            act()
    lock = Lease(out, inside=verb != "export")
    with lock:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != lock.path}
        with pytest.raises(
            InputError, match=rf"^{out}: in use by process {os.getpid()} on {socket.gethostname()} since"
        ):
            act()
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != lock.path}
        assert after == before
    if verb == "data meta over another":
        act = partial(convert, ["sst2"], out, tmp_path / "sst2", overwrite=True)
    act()
    assert any(path.is_file() for path in out.rglob("*"))
    assert not list(tmp_path.rglob(f"*{NAME}"))


def test_a_killed_process_leaves_a_lock_that_is_taken_over(
    holder: subprocess.Popen[str], tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / NAME).is_file()
    run = train(tiny_model_dir, sentiment_file, tmp_path / "out")
    assert not list(run.path.glob(f"{NAME}*")), "nothing of a lock stays behind a run that ended"


def test_a_dead_process_that_nobody_asked_after_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays in the table of processes
    refuse_in_use(tmp_path / "out")
    with Lease(tmp_path / "out") as ours:
        assert ours.held


def test_a_number_that_was_given_to_another_process_is_not_taken_for_it(tmp_path: Path) -> None:
    content = {"token": "x", "host": socket.gethostname(), "pid": os.getpid(), "born": 1.0, "since": 0}
    (tmp_path / NAME).write_text(json.dumps(content))
    with Lease(tmp_path) as ours:
        assert ours.held


@pytest.mark.parametrize("content", ["", "{", '{"host": "elsewhere", "pid": 7, "token": "x", "since": 1e9}'])
def test_a_lock_of_another_machine_or_none_that_can_be_read(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known to be dead by not being touched, as seen from here, whatever the clocks say."""
    monkeypatch.setattr(lease, "PATIENCE", 1.0)
    path = tmp_path / NAME
    path.write_text(content)
    os.utime(path, (2e9, 2e9))  # a clock far ahead
    stop = threading.Event()

    def beat() -> None:
        moment = 1e9
        while not stop.wait(0.05):
            moment += 1
            os.utime(path, (moment, moment))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by"), Lease(tmp_path):
            pass
    finally:
        stop.set()
        thread.join()
    with Lease(tmp_path) as ours:
        assert ours.held


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    content = {"token": "x", "host": socket.gethostname(), "pid": dead.pid, "born": 1.0, "since": 0}
    for _ in range(20):
        (tmp_path / NAME).write_text(json.dumps(content))
        said = race(tmp_path, 8)
        assert len(said) == 8
        assert "held" in said
        assert set(said) <= {"held", "refused"}
        assert not list(tmp_path.iterdir())


def race(directory: Path, number: int) -> list[str]:
    """What each of so many threads that ask at once comes to."""
    gate, said, inside = threading.Barrier(number), list[str](), list[int]()

    def ask() -> None:
        gate.wait()
        try:
            with Lease(directory):
                inside.append(1)
                time.sleep(0.05)
                said.append("held" if len(inside) == 1 else "two at once")
                inside.pop()
        except InputError:
            said.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_a_process_that_slept_while_another_took_over_writes_nothing_more(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    from transformers import TrainerCallback

    out = tmp_path / "out"

    class Sleeps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                (out / NAME).write_text(json.dumps({"token": "other", "host": "elsewhere", "pid": 3, "since": 0}))
                self.before = {path.name for path in out.iterdir()}

    callback = Sleeps()
    with pytest.raises(RunError, match=r"process 3 on elsewhere since .* has taken over this directory"):
        train(tiny_model_dir, sentiment_file, out, save_steps=4, callbacks=[callback])
    assert {path.name for path in out.iterdir()} == callback.before


@pytest.mark.parametrize("over_another", [False, True])
def test_a_second_export_is_told_of_the_first_and_brings_nothing_back(
    over_another: bool, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not sent to --overwrite; and what the first one is in the middle of is left alone, not taken for a dead one's."""
    module = importlib.import_module("zofo.api.export")
    out = tmp_path / "out"
    run = train(tiny_model_dir, sentiment_file, tmp_path / "run")
    if over_another:
        run.export(out)
    real, seen = module._write, list[str]()

    def write(restored: Any, inputs: Any, directory: Path, *more: Any) -> None:
        real(restored, inputs, directory, *more)
        files = set(tmp_path.rglob("*"))
        for overwrite in (False, True):
            with pytest.raises(InputError, match=rf"^{out}: in use by process {os.getpid()} on ") as refusal:
                export(run.path, out, overwrite=overwrite)
            seen.append(str(refusal.value))
        assert set(tmp_path.rglob("*")) == files

    def moved(*args: Any) -> None:
        """Over another: in between there is no whole export; one that is not there yet is not missing."""
        for read in (partial(evaluate, out), partial(generate, out, ["a"], max_new_tokens=1)):
            with pytest.raises(InputError, match=rf"^{out}: in use by process {os.getpid()} on ") as refusal:
                read()
            seen.append(str(refusal.value))
        real_move(*args)

    real_move = trees._move
    monkeypatch.setattr(module, "_write", write)
    monkeypatch.setattr(trees, "_move", lambda *args: (moved if args[-1] == "zofo.json" else real_move)(*args))
    export(run.path, out, overwrite=over_another)
    assert len(seen) == (6 if over_another else 2)
    assert not [line for line in seen if "overwrite" in line]
    check_export(out)


def test_who_is_at_it_is_told_at_once(tmp_path: Path) -> None:
    """A live process of this machine; another machine's that was touched just now; none that is dead, or no lock."""
    assert lease.holder(tmp_path) is None
    with Lease(tmp_path):
        assert f"process {os.getpid()} on {socket.gethostname()} since 20" in str(lease.holder(tmp_path))
        assert lease.holder(tmp_path, here=True)
        with pytest.raises(InputError, match="in use by process"):
            refuse_in_use(tmp_path)
    assert lease.holder(tmp_path) is None
    start = time.monotonic()
    content = {"token": "x", "host": "elsewhere", "pid": 7, "since": 1e9}
    (tmp_path / NAME).write_text(json.dumps(content))
    assert "process 7 on elsewhere since 2001-" in str(lease.holder(tmp_path))
    assert lease.holder(tmp_path, here=True) is None, "not certain"
    os.utime(tmp_path / NAME, (1e9, 1e9))
    assert lease.holder(tmp_path) is None
    (tmp_path / NAME).write_text(json.dumps({**content, "host": socket.gethostname(), "pid": os.getpid(), "born": 1.0}))
    assert lease.holder(tmp_path) is None, "another process's number"
    for torn in ("", "{", "[]", "\0\0"):
        (tmp_path / NAME).write_text(torn)
        assert lease.holder(tmp_path) is None
    (tmp_path / "in").mkdir()
    with Lease(tmp_path / "new", inside=False):
        assert lease.holder(tmp_path / "new", inside=False)
        assert lease.holder(tmp_path / "in", inside=False) is None
    assert time.monotonic() - start < 5, "nothing is waited for"


@pytest.mark.parametrize("verb", ["export over another", "meta-test"])
def test_a_draft_of_a_lock_that_was_left_is_nobodys_file(
    verb: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, small_setting: Path, caplog: Any
) -> None:
    """As where the disk broke while the lock was written, so that it could not be taken away either."""
    draft = tmp_path / "out" / f"{NAME}.{'0' * 31}f"
    if verb == "meta-test":
        draft.parent.mkdir()
        draft.write_text("{")
        meta_test(str(tiny_model_dir), **as_task(small_setting), ways=["zero-shot"], output=tmp_path / "out")
    else:
        run = train(tiny_model_dir, sentiment_file, tmp_path / "run")
        run.export(tmp_path / "out")
        draft.write_text("{")
        export(run.path, tmp_path / "out", overwrite=True)
    assert not draft.exists()
    assert "not zofo's" not in caplog.text
    for name in (f"{NAME}.mine", f"{NAME}x", f"x{NAME}", f"{NAME}.{'0' * 33}"):
        assert not lease.of_a_lock(name)
    assert all(map(lease.of_a_lock, (NAME, draft.name, f".out{NAME}", f".out{NAME}.{'a' * 32}")))
