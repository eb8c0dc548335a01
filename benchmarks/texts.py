"""Texts written with soft adapters beside LoRA's: rows a second, in one interleaved run.

    python -m benchmarks.texts --model DIR --file ROWS.jsonl [--rows 48] [--new 32] [--batch 16] [--json FILE]

Each adapter stands at its start on a copy of one model and writes greedily behind the same texts, cut at 8 to 40 tokens
in turn, each ended by a blank line at the latest. Each batch's texts are compared with those of rows written alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks._machine import facts, interleaved, ratio, summary
from benchmarks.predict import texts_of
from zofo.config import registry
from zofo.config.json_text import dumps
from zofo.data import Decoding
from zofo.eval.decoding import Request, decode

ADAPTERS = ("lora", "prefix", "prompt", "dept")


def measure(model: str, file: Path, rows: int, new: int, batch: int, rounds: int) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    ids = [tokenizer(text)["input_ids"] for text in texts_of(file, rows)]
    requests = [Request(each[: 8 + i % 33] or [0], new, i) for i, each in enumerate(ids)]
    decoding, texts = Decoding(new, stop=("\n\n",)), dict[str, list[str]]()
    pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    writers: dict[str, Any] = {}
    for name in ADAPTERS:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().requires_grad_(False)
        module = registry.load("adapters", name)
        writers[name] = module.Adapter(module.Config()).build(loaded, ("p",), 1, tokenizer).deployable("p")

    def write(name: str) -> None:
        texts[name] = decode(writers[name], tokenizer, requests, decoding, pad, batch)

    timings = interleaved({name: lambda name=name: write(name) for name in ADAPTERS}, rounds)
    differ = {
        name: sum(
            text != decode(writer, tokenizer, [request], decoding, pad)[0]
            for text, request in zip(texts[name], requests)
        )
        for name, writer in writers.items()
    }
    return {
        "rows": rows,
        "new tokens": new,
        "batch": batch,
        "lengths": sorted({len(request.ids) for request in requests}),
        "seconds": {name: summary(values) for name, values in timings.items()},
        "rows a second, of LoRA's": {name: ratio(timings, "lora", name) for name in ADAPTERS[1:]},
        "texts that differ from a row alone": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {"machine": facts(), **measure(args.model, args.file, args.rows, args.new, args.batch, args.rounds)}
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
