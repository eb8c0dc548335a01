"""What is right before it is spoilt: a tiny model, rows, a run, its export, a meta-test. Made once, in a folder."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.conftest import llama_config, make_tokenizer, save_tiny, sentiment_rows, write_rows
from tests.setting_files import task_args
from tests.small_setting import make_setting, train_args
from zofo.cli import main as cli

FEW = ["train.batch_size=4", "train.max_steps=0", "train.threads=1"]
STEPS = ["train.batch_size=4", "train.max_steps=4", "train.eval_steps=2", "train.save_steps=2", "train.threads=1"]
METATEST = ["--seeds", "100", "--rates", "1e-3", "--rate-runs", "1", "--steps", "1", "--test-examples", "2"]


def quietly(*args: str) -> None:
    """`zofo args`, which succeeds."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = cli.run(list(args))
    assert code == 0, shown.getvalue()


@dataclass(frozen=True)
class World:
    root: Path

    @cached_property
    def model(self) -> Path:
        tokenizer = make_tokenizer()
        with contextlib.redirect_stderr(io.StringIO()):
            return save_tiny(self.root / "model", llama_config(tokenizer, tied=True), tokenizer)

    @cached_property
    def rows(self) -> Path:
        return write_rows(self.root / "rows.jsonl", sentiment_rows(24))

    def trained(self, name: str, *more: str) -> Path:
        """The directory of a run of four steps."""
        out = self.root / name
        if not out.exists():
            fixed = ["--model", str(self.model), "--task", str(self.rows), "--output-dir", str(out)]
            quietly("train", *fixed, *STEPS, *more)
        return out

    @cached_property
    def run(self) -> Path:
        """theta by its journal, and an adapter."""
        return self.trained("bilevel", "--method", "bilevel-zofo", "method.inner_steps=1", "adapter.r=2")

    @cached_property
    def mezo(self) -> Path:
        return self.trained("mezo", "--method", "mezo")

    @cached_property
    def full(self) -> Path:
        """theta's weights in its checkpoints."""
        return self.trained("full", "--method", "fo-ft")

    def adapter(self, kind: str) -> Path:
        """An export with an adapter of this kind: PEFT's lora, prefix and prompt, zofo's own dept."""
        run, out = self.trained(f"run-{kind}", "--method", "fo-peft", "--adapter", kind), self.root / f"export-{kind}"
        if not out.exists():
            quietly("export", "--separate", str(run), str(out))
        return out

    @cached_property
    def setting(self) -> Path:
        return make_setting(self.root / "setting")

    @cached_property
    def meta_run(self) -> Path:
        out = self.root / "meta"
        quietly(*train_args(self.model, task_args(self.setting), out, "shared"))
        return out

    @cached_property
    def meta_test(self) -> Path:
        """What a meta-test wrote."""
        out = self.root / "meta-test"
        quietly("meta-test", str(self.meta_run), "--output", str(out), *METATEST)
        return out


def copied(source: Path, folder: Path) -> Path:
    """A copy to spoil."""
    target = folder / source.name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return target
