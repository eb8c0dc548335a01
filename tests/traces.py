"""What two runs must have alike, where one was cut and taken up again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import read_rows


def traces(out: Path) -> dict[str, object]:
    """What must be equal: journal, adapters, optimizer state, numbers; all but times and paths."""
    held: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix in (".safetensors", ".bin") or path.name == "adapter_config.json" or name.startswith("eval/"):
            held[name] = path.read_bytes()
    held["metrics"] = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(out / "metrics.jsonl")]
    info = json.loads((out / "run.json").read_text())
    timed = ("seconds", "seconds_per_step", "peak_bytes", "phases", "environment", "config_hash")
    held["run"] = {k: v for k, v in info.items() if k not in timed}
    return held
