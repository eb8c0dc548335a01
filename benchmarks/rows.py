"""A million rows: the seconds before the first step beside tokenizing alone, and the memory that they take.

    python -m benchmarks.rows --model DIR --file ROWS.jsonl [--rows 1000000] [--json FILE]

ROWS: lines with a text, repeated with a number in front; two labels behind each. alone: the model's tokenizer over what
zofo tokenizes, each text with either label behind it, 8192 rows at once. Each in a process of its own, since what is
measured is memory, too. One thread of Python; the tokenizer takes all cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._machine import MIB, facts, status
from benchmarks.predict import texts_of
from zofo.config.json_text import dumps

LABELS = ("bad", "good")


def write(file: Path, into: Path, rows: int) -> None:
    texts = texts_of(file, min(rows, 10_000))
    with into.open("w", encoding="utf-8") as out:
        for i in range(rows):
            text = f"{i} {texts[i % len(texts)]}"
            out.write(dumps({"text": text, "label": LABELS[(i * 2654435761 >> 7) % 2]}) + "\n")


def alone(model: str, file: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    rows = map(json.loads, file.open(encoding="utf-8"))
    texts = [f"{row['text']} {label}" for row in rows for label in LABELS]
    begun, tokens = time.perf_counter(), 0
    for i in range(0, len(texts), 2 * 8192):
        tokens += sum(map(len, tokenizer(texts[i : i + 2 * 8192])["input_ids"]))
    return {"seconds": time.perf_counter() - begun, "tokens": tokens}


def ours(model: str, file: Path) -> dict[str, Any]:
    """Read, drawn, tokenized and packed, as a run does it before its first step."""
    from zofo.api.configure import resolve
    from zofo.data.stream import Stream
    from zofo.data.task import load_task
    from zofo.data.tokenization import tokenize_all
    from zofo.models.load import load

    task = {"name": str(file), "train_examples": 10**9, "dev_examples": 500, "test_examples": 500}
    config = resolve(
        model={"name": model, "dtype": "float32"}, task=task, method="mezo", train={"output_dir": "unused"}
    )
    loaded = load(config.model)
    memory, begun = status("VmRSS"), time.perf_counter()
    data = load_task(config.task, 0, loaded.tokenizer)
    read = time.perf_counter()
    encoded = tokenize_all(loaded.tokenizer, data.train, loaded.max_length, "options", False)
    next(Stream(encoded, 16, loaded.pad_id, 0, "train"))
    ended = time.perf_counter()
    return {
        "examples": len(data.train),
        "seconds": ended - begun,
        "seconds to read and draw": read - begun,
        "seconds to tokenize": ended - read,
        "MiB over the model": (status("VmRSS") - memory) / MIB,
        "MiB over the model, peak": (status("VmHWM") - memory) / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=["alone", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(dumps({"alone": alone, "ours": ours}[args.part](args.model, args.file)))
        return
    results: dict[str, Any] = {"machine": facts(), "rows": args.rows}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write(args.file, file, args.rows)
        for part in ("alone", "ours"):
            command = [sys.executable, "-m", "benchmarks.rows", "--model", args.model, "--file", str(file)]
            done = subprocess.run([*command, "--part", part], stdout=subprocess.PIPE, check=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
    results["ours / alone"] = results["ours"]["seconds"] / results["alone"]["seconds"]
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
