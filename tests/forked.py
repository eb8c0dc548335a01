"""A command line in a process of its own, forked from a server that has loaded what takes seconds to load.

What is tested is the same as with `python -m zofo`: real signals, real exit codes, real streams. Where the start of
the interpreter itself matters, the slow tests start one.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import zofo.cli.main
from zofo.cli import process
from zofo.zo.kernels import cpu

LOADED = [
    *("peft", "transformers.models.llama.modeling_llama", "zofo.api.evaluate", "zofo.api.export", "zofo.api.finetune"),
    *("zofo.api.finish", "zofo.api.metatest.run", "zofo.api.restore", "zofo.eval.evaluator", "zofo.train.setup"),
    *("zofo.api.predict_file", "pyarrow.parquet"),
    *("zofo.models.load", "zofo.models.adapters.lora", "zofo.models.adapters._bank", "zofo.train.loop"),
    *("zofo.methods.bilevel_zofo", "zofo.methods.mezo", "zofo.zo.estimators.spsa", "zofo.zo.kernels.cpu"),
    *("pydantic.type_adapter", "zofo.cli.settings", "zofo.cli.show", "zofo.objectives.options"),
]
for module in LOADED:
    importlib.import_module(module)
process.command(zofo.cli.main.app)
cpu.add(torch.empty(8), torch.zeros(8), [(1, 0.5)], 7)  # numba loads half of itself with its first function
gc.freeze()  # in the server: else a look for garbage in a fork goes through all libraries, and copies their pages
torch.set_num_threads(1)  # in the server, so in all of them: a fork shares no pool of threads
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])

Stream = Path | Connection | None  # None: closed


def zofo_main(*args: str) -> None:
    sys.argv = ["zofo", *args]
    zofo.cli.main.main()


def run(
    act: Callable[..., Any],
    *args: str,
    env: Mapping[str, str] | None = None,
    ignored: Sequence[int] = (),
    timeout: float = 600,
    streams: tuple[Stream, Stream] | None = None,
    given: Path = Path(os.devnull),
) -> subprocess.CompletedProcess[str]:
    """act(*args) in a process: a function of a module. ignored: signals, as under nohup.

    streams: where standard output and error go; without, they are in the result. given: standard input. The exit code
    of a process that a signal ended is minus its number.
    """
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "out", Path(folder) / "err"
        there = (dict(os.environ if env is None else env), os.getcwd())
        process = SERVER.Process(target=_child, args=(act, args, there, (given, *(streams or texts)), ignored))
        process.start()
        for stream in streams or ():
            if isinstance(stream, Connection):
                stream.close()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([act.__name__, *args], timeout)
        out, err = (path.read_text("utf-8", "replace") if path.exists() else "" for path in texts)
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess([act.__name__, *args], code, out, err)


def _child(
    act: Callable[..., Any],
    args: Sequence[str],
    there: tuple[dict[str, str], str],
    streams: tuple[Stream, Stream, Stream],
    ignored: Sequence[int],
) -> None:
    os.environ.clear()
    os.environ.update(there[0])
    os.chdir(there[1])
    for number, stream in enumerate(streams):
        if stream is None:
            os.close(number)
        elif isinstance(stream, Path):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o644), number)
        else:
            os.dup2(stream.fileno(), number)
            stream.close()
    # As the interpreter opens them when it starts
    _, out, err = streams
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = None if out is None else os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = None if err is None else os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for sent in (signal.SIGHUP, signal.SIGTERM):  # as in a terminal, however the tests were started
        signal.signal(sent, signal.SIG_DFL)
    for sent in ignored:
        signal.signal(sent, signal.SIG_IGN)
    try:
        act(*args)
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:
            os._exit(120)  # what the interpreter does
