"""The sandbox: what counts as passed, when nothing is run at all, and many programs."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from tests.sandboxed import gone, mark, needs_sandbox, passes, run
from zofo.errors import InputError
from zofo.eval import sandbox
from zofo.eval.sandbox import Limits, Outcome


@needs_sandbox
def test_a_program_that_reaches_its_end_passes() -> None:
    assert run("print('hello')\nassert sum(range(5)) == 10") == Outcome(True, "passed", "hello\n")


@needs_sandbox
def test_the_standard_library_is_there_and_nothing_else() -> None:
    passes("""
        import collections, dataclasses, functools, heapq, itertools, json, math, random, re, sqlite3, statistics
        import subprocess, tempfile, threading, typing, hashlib, ssl, lzma
        @dataclasses.dataclass
        class Point:
            x: int = 0
        assert __name__ == "program"
        assert subprocess.run(["/usr/bin/env"], capture_output=True).returncode == 0
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("a")
        thread = threading.Thread(target=print)
        thread.start(), thread.join()
    """)
    for name in ("torch", "zofo", "pytest"):
        assert "ModuleNotFoundError" in run(f"import {name}").output


@needs_sandbox
def test_the_same_order_of_sets_every_time() -> None:
    shown = {passes("print(list({str(i) for i in range(50)}))").output for _ in range(2)}
    assert len(shown) == 1


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "reason", "word"),
    [
        ("assert 1 == 2, 'unequal'", "failed", "AssertionError: unequal"),
        ("def f(:", "failed", "SyntaxError"),
        ("def f(): return f()\nf()", "failed", "RecursionError"),
        ("input()", "failed", "EOFError"),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
        ("class E(BaseException):\n  def __str__(self): raise SystemExit(0)\nraise E", "failed", "E"),
        ("import ctypes; ctypes.string_at(0)", "exited early", ""),
        ("'\\ud800'.encode()", "failed", "UnicodeEncodeError"),
        ("\x00", "failed", "null bytes"),
    ],
)
def test_a_program_that_fails(program: str, reason: str, word: str) -> None:
    outcome = run(program)
    assert (outcome.passed, outcome.reason) == (False, reason), outcome
    assert word in outcome.output


ENDS_EARLY = {
    "sys.exit": "import sys; sys.exit(0)",
    "sys.exit()": "import sys; sys.exit()",
    "os._exit": "import os; os._exit(0)",
    "SystemExit in the function": "def f(x): raise SystemExit(0)\nassert f(1) == 2",
    "SystemExit in a comparison": "class A:\n  def __eq__(self, o): raise SystemExit\nassert A() == 2",
    "exec of another program": "import os; os.execv('/usr/bin/env', ['env'])",
    "killed by itself": "import os; os.kill(os.getpid(), 9)",
    "its whole group": "import os; os.kill(0, 9)",
    "SIGTERM": "import os; os.kill(os.getpid(), 15)",
    "a fork reaches the end": "import os\nchild = os.fork()\nif child: os._exit(os.waitpid(child, 0)[1])",
    "exit in atexit": "import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(1)",
    "a thread": "import threading, os, time\nthreading.Thread(target=os._exit, args=[0]).start()\ntime.sleep(3)",
}


@needs_sandbox
@pytest.mark.parametrize("how", ENDS_EARLY)
def test_ending_early_is_no_pass(how: str) -> None:
    outcome = run(ENDS_EARLY[how])
    assert (outcome.passed, outcome.reason) == (False, "exited early"), outcome


FORGED = {
    "prints it": """
        print("passed"); print("end 0 0.1 itself"); print("started")
        print(__import__("zlib").crc32(b"passed"), True, flush=True)
        assert False
    """,
    "writes to every file": """
        import os
        for fd in range(256):
            for text in (b"passed\\n", b"started\\nend 0 0.1 itself\\n", bytes(64), b"1" * 64):
                try: os.write(fd, text)
                except OSError: pass
        os._exit(0)
    """,
    "closes every file": "import os; os.closerange(0, 256); os._exit(0)",
    "replaces the ends": """
        import builtins, os, sys
        def nothing(*args, **kwargs): return 0
        sys.exit = os._exit = os.abort = builtins.exit = builtins.quit = os.kill = sys.excepthook = nothing
        sys.stderr = sys.stdout = None
        assert False
    """,
    "replaces modules": """
        import builtins, json, pickle, sys, traceback, hashlib
        class Always:
            def __call__(self, *args, **kwargs): return self
            def __getattr__(self, name): return self
            def __eq__(self, other): return True
            def __str__(self): return "passed"
        for module in (json, pickle, traceback, hashlib):
            for name in list(vars(module)):
                if not name.startswith("__"): setattr(module, name, Always())
        builtins.BaseException = builtins.SystemExit = Always
        builtins.compile = builtins.exec = builtins.print = Always()
        assert False
    """,
    "shows all that it holds": """
        import gc, os, sys
        frame = sys._getframe(1)
        for thing in [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]:
            os.write(VERDICT, repr(thing).encode())
        os._exit(0)
    """,
    "shows bytes of that length": """
        import os
        os.write(VERDICT, os.urandom(64))
        os._exit(0)
    """,
}
VERDICT = """
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
VERDICT = max(fd for fd in range(64) if is_open(fd))
"""


@needs_sandbox
@pytest.mark.parametrize("how", FORGED)
def test_a_verdict_is_not_forged_by_writing(how: str) -> None:
    outcome = run(VERDICT + textwrap.dedent(FORGED[how]))
    assert not outcome.passed, outcome


@needs_sandbox
def test_the_proof_lies_nowhere_before_the_end() -> None:
    """Neither it nor the key is a value that frames or the garbage collector lead to."""
    passes("""
        import gc, sys
        from _blake2 import blake2b
        frame = sys._getframe(1)
        proof = frame.f_locals["proof"].digest()
        found, todo = {}, [frame.f_locals, frame.f_globals, frame.f_code, *gc.get_objects()]
        while todo:
            thing = todo.pop()
            if id(thing) not in found:
                found[id(thing)] = thing
                todo += [t for t in gc.get_referents(thing) if t is not proof]
        texts = [t for t in found.values() if type(t) in (bytes, bytearray, str) and t is not proof]
        assert len(texts) > 1000
        for text in texts:
            text = text.encode(errors="replace") if type(text) is str else bytes(text)
            assert proof not in text and proof.hex().encode() not in text
            assert all(blake2b(text[i : i + 32]).digest() != proof for i in range(min(len(text), 64)))
    """)


@needs_sandbox
def test_what_is_not_defended() -> None:
    """A program that knows this sandbox sends the proof itself. (So the tests above write to the right pipe.)"""
    forger = f"{VERDICT}import sys\nos.write(VERDICT, sys._getframe(1).f_locals['proof'].digest())\nos._exit(0)"
    assert run(forger).passed
    assert not run(f"{VERDICT}os.write(VERDICT, b'x')").passed, "and one byte more is one too many"


# ------------------------------------------------------------------------------------------------ many


@needs_sandbox
def test_many_keep_their_order() -> None:
    seen: list[tuple[int, int]] = []
    programs = [f"import time; time.sleep({0.2 if i == 0 else 0}); print({i}); assert {i} % 3" for i in range(7)]
    outcomes = sandbox.run_all(
        programs, Limits(seconds=120), workers=3, progress=lambda done, of: seen.append((done, of))
    )
    assert [o.output.split()[0] for o in outcomes] == [str(i) for i in range(7)]
    assert [o.passed for o in outcomes] == [i % 3 > 0 for i in range(7)]
    assert seen == [(i, 7) for i in range(1, 8)]
    assert sandbox.run_all([]) == []


@needs_sandbox
@pytest.mark.parametrize("workers", [1, 2])
def test_many_end_at_once_when_interrupted(workers: int) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    name, line = mark()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run_all(["pass", *[f"{line}import time; time.sleep(600)"] * 4], Limits(seconds=600), workers, interrupt)
    assert time.monotonic() - begun < 300
    assert gone(name)


@needs_sandbox
def test_the_callers_settings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its umask, its folder (even one that is no more) and the signals it ignores."""
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    before = os.umask(0o777)
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        outcome = run("import os, signal\nassert os.getcwd() == '/tmp'\nopen('a', 'w')\nos.kill(os.getpid(), 15)")
    finally:
        os.umask(before)
        for number, handler in ignored.items():
            signal.signal(number, handler)
    assert outcome.reason == "exited early"


@needs_sandbox
def test_a_long_program() -> None:
    passes(f"x = {'a' * 1_000_000!r}\nassert len(x) == 1_000_000\nassert '\u00e9' == chr(233)")


@needs_sandbox
def test_the_least_memory_starts_python() -> None:
    passes("print(1)", memory_bytes=64 << 20)


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"processes": -1}, {"memory_bytes": 1 << 20}, {"seconds": float("nan")}]
)
def test_limits_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"limits.{next(iter(wrong))}: "):
        Limits(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="workers: 0"):
        sandbox.run_all([], workers=0)
