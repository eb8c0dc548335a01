"""Who calls the sandbox: what is left when the caller is ended, other users, and machines where it cannot be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.sandboxed import BASE, SOURCE, alive, gone, mark, needs_root, needs_sandbox, passes, run
from zofo.errors import InputError
from zofo.eval import sandbox


def elsewhere(program: str, **kwargs: object) -> list[str]:
    """The command that runs `program` in a sandbox from an interpreter of its own."""
    # a shell that starts the tests in the background has them ignore interrupts, and these inherit that
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += f"sys.path.insert(0, {str(SOURCE)!r}); from zofo.eval import sandbox"
    return ["-c", f"{start}; print(sandbox.run({program!r}, sandbox.Limits(seconds=600)))"]


@needs_sandbox
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    name, line = mark()
    command = [sys.executable, *elsewhere(f"{line}import time; os.fork(); time.sleep(600)")]
    caller = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(alive(name)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(alive(name)) == 2
    caller.send_signal(how)
    _, error = caller.communicate(timeout=120)
    assert caller.returncode == -how
    assert how != signal.SIGINT or b"KeyboardInterrupt" in error
    assert gone(name)
    assert list(tmp_path.iterdir()) == []


@needs_sandbox
def programs() -> list[psutil.Process]:
    """What this process has started and is still there; the tests' own server of forks is not meant."""
    return [child for child in psutil.Process().children() if "multiprocessing" not in " ".join(child.cmdline())]


def test_an_interrupt_that_the_caller_survives() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    name, line = mark()
    before = signal.signal(signal.SIGALRM, interrupt), len(os.listdir("/proc/self/fd"))
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(f"{line}import time; time.sleep(60)", sandbox.Limits(seconds=60))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[0])
    assert gone(name, 1.0)
    assert not programs()
    assert len(os.listdir("/proc/self/fd")) == before[1]


@needs_sandbox
def test_no_mounts_and_files_are_left_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text(), len(os.listdir("/proc/self/fd"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    passes("open('/tmp/a', 'w').write('a')")
    run("while True: pass", seconds=0.2)
    assert before == (Path("/proc/self/mountinfo").read_text(), len(os.listdir("/proc/self/fd")))
    assert list(tmp_path.iterdir()) == []
    assert not programs()


@needs_root
@needs_sandbox
@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("setpriv")), reason="needs util-linux")
def test_an_ordinary_user_is_as_safe(tmp_path: Path) -> None:
    """The interpreter is mounted where that user can read it, for root's own folder may be closed to others."""
    for folder in ("python", "source"):
        (tmp_path / folder).mkdir()
    bomb = "import os\nfor i in range(40):\n  if os.fork() == 0:\n    while True: pass"
    cases = {
        "print(1)": "Outcome(passed=True, reason='passed', output='1\\n')",
        "import os; assert os.getuid() == 65534; os.mkdir('/usr/a')": "Read-only file system",
        "import os; os._exit(0)": "exited early",
        "import socket; socket.create_connection(('127.0.0.1', 1))": "Address family not supported",
        bomb: "BlockingIOError",
    }
    text = (
        f"from zofo.eval import sandbox\nfor p in {list(cases)!r}:\n  print(sandbox.run(p, sandbox.Limits(seconds=3)))"
    )
    home = "/run/zofo-test"
    lines = [
        "mount -t tmpfs -o mode=755 t /run",
        f"mkdir -p {home}/python {home}/source",
        f"mount --bind {BASE} {home}/python",
        f"mount --bind {SOURCE} {home}/source",
        f"cd {home}/source",
        "exec setpriv --reuid 54321 --regid 54321 --clear-groups "
        f'{home}/python/bin/python3 -I -B -c "import sys; sys.path.append(\'{home}/source\'); exec(sys.argv[1])" "$0"',
    ]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", "\n".join(lines), text], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for shown, (program, expected) in zip(done.stdout.splitlines(), cases.items(), strict=True):
        assert expected.replace("\n", "\\n") in shown, (program, shown)
        assert ("passed=True" in shown) == (program == "print(1)")


@needs_root
@needs_sandbox
def test_the_groups_of_the_caller_are_left_behind() -> None:
    command = [sys.executable, *elsewhere("import os; print(os.getgroups(), os.getgid())")]
    done = subprocess.run(command, extra_groups=[0, 4321], capture_output=True, text=True)
    assert "output='[] 65534\\n'" in done.stdout, done


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux")
def test_nothing_is_missing_where_unshare_does_all_this() -> None:
    """Else a sandbox that is broken would skip its own tests."""
    kinds = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--ipc", "--uts"]
    done = subprocess.run(["unshare", *kinds, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert sandbox.missing() is None


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux")
def test_without_namespaces_nothing_runs(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    tmp_path.chmod(0o777)
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces || exit 77; exec "$0" "$@"'
    command = [sys.executable, *elsewhere(f"open({str(witness)!r}, 'w')")]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, *command], capture_output=True, text=True
    )
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip(f"user namespaces cannot be switched off for a test here: {done.stderr.strip()}")
    assert done.returncode == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "zofo.errors.InputError: programs cannot be run here: the sandbox could not be set up: unshare"
    ), last
    assert "new user, PID, mount, network, IPC, UTS namespaces): " in last
    assert "user.max_user_namespaces above 0" in last
    assert not witness.exists()


def test_what_is_missing_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "no namespaces, because")
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda *a, **k: pytest.fail("something was started"))
    for attempt in (lambda: sandbox.run("pass"), lambda: sandbox.run_all(["pass"])):
        with pytest.raises(InputError, match="programs cannot be run here: no namespaces, because"):
            attempt()


def test_another_system_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (sandbox.missing.__wrapped__() or "").startswith("this is darwin, and a program is run only in namespaces")


@needs_sandbox
def test_a_sandbox_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_TRIAL", "assert False, 'the number of processes is not limited'")
    assert "the number of processes is not limited; a program" in (sandbox.missing.__wrapped__() or "")
