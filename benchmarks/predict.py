"""Labels for the rows of a file: `zofo predict` beside lm-evaluation-harness's HFLM; and its memory over a long file.

    python -m benchmarks.predict --model DIR --file ROWS.jsonl [--rows 2000] [--rounds 3] [--json FILE]
    python -m benchmarks.predict --model DIR --file ROWS.jsonl --long 1000000 [--json FILE]

ROWS: lines with a text; both choose among the same two labels behind it. HFLM (pip install "zofo[lm-eval]") has the
fastest of the batch sizes tried on the first rows, zofo its default; both read the model before the clock starts. In
one interleaved run. --long repeats the rows with a number in front and prints the process's memory as it goes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks._machine import MIB, facts, interleaved, ratio, status, summary
from zofo.api.predict import Asked, answer, open_predictor
from zofo.api.predict_file import predict_file
from zofo.config.json_text import dumps
from zofo.data.files import BadRows, Record

LABELS = ("negative", "positive")
BATCHES = (1, 4, 8, 16, 32, 64)
TRIED = 128  # rows on which the rival's batch sizes are tried
CHOICES = f"task.choices=[{','.join(LABELS)}]"


def texts_of(file: Path, rows: int) -> list[str]:
    """So many texts, from the beginning again where the file has fewer."""
    with file.open(encoding="utf-8") as lines:
        given = [next(value for value in json.loads(line).values() if isinstance(value, str)) for line in lines]
    return [given[i % len(given)] for i in range(rows)]


class Harness:
    """HFLM's log-likelihoods of both labels behind each text; the larger is the answer."""

    def __init__(self, model: str, texts: Sequence[str]) -> None:
        HFLM = import_module("lm_eval.models.huggingface").HFLM

        seconds = {}
        for size in BATCHES:
            lm = HFLM(pretrained=model, batch_size=size, device="cpu", dtype="float32")
            begun = time.perf_counter()
            self._answers(lm, texts[:TRIED])
            seconds[size] = time.perf_counter() - begun
        self.batch = min(seconds, key=lambda size: seconds[size])
        self.lm = HFLM(pretrained=model, batch_size=self.batch, device="cpu", dtype="float32")

    def _answers(self, lm: Any, texts: Sequence[str]) -> list[str]:
        Instance = import_module("lm_eval.api.instance").Instance

        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(text, f" {label}"), idx=i)
            for i, text in enumerate(texts)
            for label in LABELS
        ]
        scores = [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        return [LABELS[int(b > a)] for a, b in zip(scores[::2], scores[1::2])]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return self._answers(self.lm, texts)


def beside(model: str, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    records = [Record(f"{i}", f"{i}", {"text": text}) for i, text in enumerate(texts)]
    asked = Asked(overrides=[CHOICES, "task.scoring=sum", "model.dtype=float32"])
    predictor, _ = open_predictor(model, asked, records, "./rows.jsonl")
    harness, said = Harness(model, texts), dict[str, list[str | None]]()

    def ours() -> None:
        said["zofo"] = []
        for start in range(0, len(records), 512):  # as a file's parts are
            said["zofo"] += [a.prediction for a in answer(predictor, records[start : start + 512], BadRows())]

    def theirs() -> None:
        said["HFLM"] = list(harness(texts))

    timings = interleaved({"zofo": ours, "HFLM": theirs}, rounds)
    return {
        "rows": len(texts),
        "seconds": {name: summary(values) for name, values in timings.items()},
        "HFLM / zofo": ratio(timings, "HFLM", "zofo"),
        "HFLM's batch size": harness.batch,
        "answers that differ": sum(a != b for a, b in zip(said["zofo"], said["HFLM"])),
    }


def long(model: str, texts: Sequence[str], rows: int) -> dict[str, Any]:
    """Resident memory of the process, ten times over the file."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "rows.csv", Path(folder) / "out.csv"
        with file.open("w", encoding="utf-8") as lines:
            lines.write("number,text\n")
            lines.writelines(f'{i},"{i}: {texts[i % len(texts)].replace(chr(34), chr(39))}"\n' for i in range(rows))
        seen, over = [], threading.Event()

        def watch() -> None:
            while not over.wait(5.0):
                seen.append((round(time.perf_counter() - begun), round(status("VmRSS") / MIB)))

        begun = time.perf_counter()
        threading.Thread(target=watch, daemon=True).start()
        summed = predict_file(model, file, out, overrides=[CHOICES])
        seconds, peak = round(time.perf_counter() - begun), round(status("VmHWM") / MIB)  # of the check below nothing
        over.set()
        with out.open(encoding="utf-8") as lines:
            next(lines)
            assert all(line.startswith(f"{i},") for i, line in zip(range(rows), lines, strict=True)), "once, in order"
        every = max(1, len(seen) // 20)
        return {
            **{key: summed[key] for key in ("rows", "predictions")},
            "seconds": seconds,
            "MiB of the process, by seconds": dict(seen[::every]),
            "MiB of the process at its peak": peak,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    texts = texts_of(args.file, args.rows)
    figures = long(args.model, texts, args.long) if args.long else beside(args.model, texts, args.rounds)
    results = {"machine": facts(), **figures}
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
