"""`python -m tests.compatibility NAME`: the whole suite in this environment, and a dated line about it.

The line goes into results/compatibility.json. From the lines without a failure follow the versions that zofo says it
was tested with (src/zofo/models/tested.json, which `zofo env` and errors read) and the table of docs/compatibility.md.
Exits with pytest's code. `--table` makes the two files from the lines that are there, without a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from zofo.models.versions import installed

ROOT = Path(__file__).resolve().parents[1]
LINES = ROOT / "results" / "compatibility.json"
TESTED = ROOT / "src" / "zofo" / "models" / "tested.json"
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- made by `python -m tests.compatibility --table` -->", "<!-- end -->"
OF_THE_RECORD = ROOT / "tests" / "unit" / "test_compatibility_files.py"  # these read what this run is about to write
# The libraries of pyproject's dependencies in the order of their weight, then the optional ones that tests need
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numba",
    "numpy",
    "typer",
    "rich",
    "pydantic",
    "pyyaml",
    "jinja2",
    "psutil",
    "packaging",
)
OPTIONAL = ("torchao", "triton", "gguf")
SHOWN = ("torch", "transformers", "peft", "accelerate", "datasets", "numba", "typer", "torchao")  # in the table


def run(name: str, arguments: list[str]) -> int:
    """The suite, and a line where it ran whole (no selection of tests was given)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        fixed = [
            "-n",
            "auto",
            "--maxprocesses",
            "4",
            "--dist",
            "worksteal",
            f"--junitxml={report}",
            f"--ignore={OF_THE_RECORD}",
        ]
        code = int(pytest.main([*fixed, *arguments]))
        if arguments or not report.is_file():
            return code
        suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    line = {
        "environment": name,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "seconds": round(float(suite.get("time", 0))),
        "versions": {each: version for each in (*LIBRARIES, *OPTIONAL) if (version := installed(each))},
    }
    write([*(old for old in lines() if not _same(old, line)), line])
    return code


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two lines are about one environment: the later one stands."""
    return all(one[key] == other[key] for key in ("environment", "python", "platform", "versions"))


def lines() -> list[dict[str, Any]]:
    return json.loads(LINES.read_text("utf-8")) if LINES.is_file() else []


def write(records: list[dict[str, Any]]) -> None:
    text = ",\n".join(json.dumps(line) for line in records)
    _whole(LINES, f"[\n{text}\n]\n")
    tabulate(records)


def tabulate(records: list[dict[str, Any]]) -> None:
    """tested.json and the page's table from the lines."""
    spans = ",\n".join(f'    "{name}": {json.dumps(list(span))}' for name, span in tested(records).items())
    pythons = json.dumps(sorted({minor(line) for line in records if counts(line)}, key=Version))
    _whole(TESTED, f'{{\n  "pythons": {pythons},\n  "libraries": {{\n{spans}\n  }}\n}}\n')
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    _whole(PAGE, f"{before}{BEGIN}\n\n{table(records)}\n\n{END}{rest.split(END)[1]}")


def counts(line: dict[str, Any]) -> bool:
    """Whether a line had no failure, and versions that pyproject still allows: a bound may have been raised since."""
    allowed = {r.name.lower(): r.specifier for r in requirements()}
    here = line["versions"].items()
    return not line["failed"] and all(v.split("+")[0] in allowed[name] for name, v in here if name in allowed)


def requirements() -> list[Requirement]:
    """The dependencies of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"]]


def tested(records: Iterable[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """{library: (oldest, newest) version} over the lines that `counts`."""
    green = [line["versions"] for line in records if counts(line)]
    spans = {}
    for name in LIBRARIES:
        versions = sorted({versions[name].split("+")[0] for versions in green if name in versions}, key=Version)
        if versions:
            spans[name] = (versions[0], versions[-1])
    return spans


def minor(line: dict[str, Any]) -> str:
    """A line's Python, as "3.11"."""
    return ".".join(line["python"].split(".")[:2])


def table(records: list[dict[str, Any]]) -> str:
    head = ["environment", "date", "Python", "on", *SHOWN, "passed", "failed", "skipped", "minutes"]
    rows = [
        [
            line["environment"],
            line["date"],
            line["python"],
            line["platform"],
            *(line["versions"].get(name, "-") for name in SHOWN),
            str(line["passed"]),
            str(line["failed"]),
            str(line["skipped"]),
            f"{line['seconds'] / 60:.1f}",
        ]
        for line in sorted(records, key=lambda line: line["date"], reverse=True)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("name", nargs="?", help="what the line calls this environment: tested, newest, oldest, ...")
    parser.add_argument(
        "--table", action="store_true", help="make the table and tested.json from the lines, and no run"
    )
    arguments, rest = parser.parse_known_args()
    if arguments.table:
        tabulate(lines())
        return 0
    if arguments.name is None:
        parser.error("a name is needed, such as newest")
    return run(arguments.name, rest)


if __name__ == "__main__":
    sys.exit(main())
