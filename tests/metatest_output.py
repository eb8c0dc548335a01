"""What a meta-test wrote into its output directory, read back without the times."""

from __future__ import annotations

import json
from pathlib import Path

from tests.setting_files import JsonRow, read_rows


def no_times(part: JsonRow) -> JsonRow:
    return {key: value for key, value in part.items() if not key.endswith("seconds")}


def parts_in(out: Path) -> dict[str, JsonRow]:
    folder = out / "parts"
    return {str(p.relative_to(folder)): no_times(json.loads(p.read_text())) for p in sorted(folder.rglob("*.json"))}


def scores(result: JsonRow) -> JsonRow:
    """What of a result must be equal."""
    ways = {
        way: {k: v for k, v in values.items() if k != "seconds_per_example"} for way, values in result["ways"].items()
    }
    return {**result, "ways": ways}


def results_in(out: Path) -> JsonRow:
    return json.loads((out / "results.json").read_text())


def predictions(out: Path, way: str, task: str, seed: int) -> list[JsonRow]:
    return read_rows(out / "predictions" / way / f"{task}-{seed}.jsonl")
