"""The walls of the sandbox: what a program inside sees, and what it can change."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.sandboxed import BASE, SOURCE, alive, mark, needs_sandbox, passes, run
from zofo.eval import sandbox
from zofo.eval.sandbox import Limits


@pytest.fixture
def inside() -> Iterator[psutil.Process]:
    """A program at rest, seen from outside; the sandbox is ended with the test."""
    name, line = mark()
    stop = threading.Event()
    text = f"{line}import time; time.sleep(600)"
    thread = threading.Thread(target=lambda: sandbox._run(text, Limits(seconds=600), stop))
    thread.start()
    try:
        until = time.monotonic() + 120
        while not (pids := alive(name)):
            assert time.monotonic() < until
            time.sleep(0.02)
        yield psutil.Process(pids[0])
    finally:
        stop.set()
        thread.join()


@needs_sandbox
def test_namespaces_rights_and_session_from_outside(inside: psutil.Process) -> None:
    for kind in ("user", "pid", "mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{inside.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    lines = Path(f"/proc/{inside.pid}/status").read_text().splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    assert all(int(status[f"Cap{which}"][0], 16) == 0 for which in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert status["Uid"] == [str(65534 if os.geteuid() == 0 else os.geteuid())] * 4
    if os.geteuid() == 0:
        assert status["Groups"] == []
    interfaces = Path(f"/proc/{inside.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert os.getsid(inside.pid) == inside.pid != os.getsid(0)
    assert os.getpgid(inside.pid) == inside.pid
    outer = inside.parents()[1]  # process 1 inside, and before it the one that waits outside
    assert os.getpgid(outer.pid) != os.getpgid(0)


@needs_sandbox
def test_no_environment_and_no_file_is_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOFO_TEST_SECRET", "s3cret")
    with open(tmp_path / "held", "w") as file:
        os.set_inheritable(file.fileno(), True)
        shown = passes("""
            import os
            print(sorted(os.environ))
            for fd in range(4096):
                try: os.fstat(fd)
                except OSError: continue
                print(fd, end=" ")
        """).output.splitlines()
    assert "SECRET" not in shown[0]
    assert shown[0] == str(
        ["HOME", "LANG", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "PATH", "PYTHONHASHSEED", "PYTHONUTF8", "TMPDIR"]
    )
    assert len(shown[1].split()) == 4, "standard input, output, error, and the pipe for the proof"
    passes("import os, glob\nassert not os.path.exists('/proc/1/environ') and not glob.glob('/proc/*')")


@needs_sandbox
def test_nothing_of_the_host_is_in_sight(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("here")
    hidden = [tmp_path / "canary", SOURCE / "zofo", Path(sys.prefix) / "pyvenv.cfg", "/etc/passwd", "/home", "/sys"]
    passes(f"""
        import os, socket
        assert not [p for p in {[str(p) for p in hidden]} if os.path.exists(p)]
        assert set(os.listdir("/")) <= {{"dev", "etc", "gnu", "lib", "lib32", "lib64", "nix", "tmp", "usr",
            {BASE.parts[1]!r}}}
        assert (os.getpid(), os.getppid(), os.getuid(), os.getgid()) == (2, 1, 65534, 65534)
        assert socket.gethostname() == "sandbox" != {socket.gethostname()!r}
        assert os.listdir("/tmp") == []
    """)


@needs_sandbox
def test_no_network(tmp_path: Path) -> None:
    name = f"zofo-{secrets.token_hex(8)}"
    path = str(tmp_path / "socket")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        with socket.socket(socket.AF_UNIX) as named:
            named.bind(path)
            for server in (abstract, named, tcp):
                server.listen()
                socket.socket(server.family).connect(server.getsockname())  # from here it can be reached
                server.accept()
            places = [("AF_INET", tcp.getsockname()), ("AF_UNIX", f"\0{name}"), ("AF_UNIX", path)]
            places.append(("AF_INET", ("8.8.8.8", 53)))
            for family, address in places:
                outcome = run(f"import socket\nsocket.socket(socket.{family}).connect({address!r})")
                assert "OSError" in outcome.output or "Error: [Errno" in outcome.output, outcome
            tcp.settimeout(0.05)
            with pytest.raises(TimeoutError):
                tcp.accept()
    for family in (16, 17, 38, 40):  # netlink, packet, alg, vsock
        assert "Errno 97" in run(f"import socket; socket.socket({family}, socket.SOCK_RAW, 0)").output


# ------------------------------------------------------------------------------------------------ what it changes


@needs_sandbox
def test_no_writes_outside_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    canary = tmp_path / "canary"
    canary.write_text("here")
    canary.chmod(0o666)
    roots = ["/", "/usr", "/usr/lib", "/lib", "/dev", "/dev/shm", "/etc", "/var/tmp", "/proc", "/sys", str(tmp_path)]
    roots += [str(Path.home()), str(SOURCE), sys.prefix, str(BASE), os.path.dirname(os.__file__)]
    passes(f"""
        import os, shutil
        def refused(do, *args):
            try: do(*args)
            except OSError: return True
        for root in {roots}:
            for do in (lambda p: open(p + "/new", "x"), lambda p: os.mkdir(p + "/new"), lambda p: os.chmod(p, 0o777),
                       lambda p: os.symlink("/tmp", p + "/new"), lambda p: os.rename(p, p + "x"), os.rmdir,
                       lambda p: os.link("/tmp/mine", p + "/new"), lambda p: os.mkfifo(p + "/new"), os.utime):
                assert refused(do, root), root
            os.path.lexists("/tmp/out") and os.unlink("/tmp/out")
            os.symlink(root, "/tmp/out")
            assert refused(open, "/tmp/out/new", "x"), root
            assert refused(open, "/tmp/../" + root + "/new", "x"), root
        for root in ("/", "/usr", "/dev", "/etc", {str(BASE)!r}, os.path.dirname(os.__file__)):
            try: os.mkdir(root + "/new")
            except OSError as error: assert error.errno == 30, "not permitted, but not read-only either: " + root
        for file in (os.__file__, "/usr/bin/env", "/etc/ld.so.cache", {str(canary)!r}):
            assert refused(open, file, "a") and refused(os.unlink, file), file
        open("/tmp/mine", "x").write("allowed")
        open("/dev/null", "w").write("allowed")
    """)
    assert canary.read_text() == "here"
    assert [p.name for p in tmp_path.iterdir()] == ["canary"]


@needs_sandbox
def test_no_way_back_to_rights() -> None:
    passes("""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for flags in (32 | 4096 | 0, 32):  # remount read-write, with and without bind
            for target in (b"/", b"/usr", b"/tmp"):
                assert libc.mount(None, target, None, flags, None) == -1
        assert libc.mount(b"x", b"/tmp", b"tmpfs", 0, None) == -1
        for namespace in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x10020000):
            assert libc.unshare(namespace) == -1, hex(namespace)
        for do in (os.setuid, os.setgid, lambda n: os.chroot("/tmp"), lambda n: os.setgroups([n])):
            try: do(0)
            except OSError: continue
            raise AssertionError(do)
        assert libc.ptrace(16, 1, 0, 0) == -1
        assert libc.shmget(0, 4096, 0o1600) == -1
        assert libc.memfd_create(b"x", 0) == -1
        assert libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0) == -1
    """)


@needs_sandbox
def test_deleting_everything(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "canary").write_text("here")
    before = sorted(os.listdir("/")), sorted(os.listdir(os.path.dirname(os.__file__)))
    passes(f"""
        import os, shutil
        open("/tmp/a", "w").close()
        for root in ({str(tmp_path)!r}, {str(SOURCE)!r}, os.path.dirname(os.__file__), "/dev", "/tmp"):
            shutil.rmtree(root, ignore_errors=True)
        import wave, sched  # the library is still there
        assert os.listdir("/tmp") == []
    """)
    for program in ("import shutil; shutil.rmtree('/', ignore_errors=True)", "import os; os.system('rm -rf /* 2>&1')"):
        assert run(program, seconds=1).reason in ("passed", "timed out")  # so many files to try
    assert before == (sorted(os.listdir("/")), sorted(os.listdir(os.path.dirname(os.__file__))))
    assert (tmp_path / "canary").exists()
    passes("print('the next one runs')")


@needs_sandbox
def test_the_folder_is_limited_private_and_forgotten() -> None:
    fill = "for i in range(100):\n  with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(1 << 20))"
    outcome = run(fill, disk_bytes=4 << 20)
    assert (outcome.reason, "No space left" in outcome.output) == ("failed", True), outcome
    outcome = run("open('/tmp/a', 'wb').truncate(1 << 30)", disk_bytes=4 << 20)
    assert "File too large" in outcome.output
    assert "No space left" in run("for i in range(10000): open(f'/tmp/{i}', 'w').close()").output
    passes("import os; assert os.listdir('/tmp') == []")
