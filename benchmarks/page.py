"""docs/performance.md's tables, from results/benchmarks/*.json: `python -m benchmarks.page` writes them anew.

The page's sentences are people's; between `<!-- figures: NAME -->` and `<!-- end -->` stands what this makes. A result
that is not there is "not measured".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zofo.config.json_text import read_json
from zofo.study.bench.entry import read_entry
from zofo.study.bench.plan import COMMON
from zofo.study.bench.table import tables

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "results" / "benchmarks"
NONE = "not measured"
SIZES = ("4x32", "4x64", "16x64", "8x256")
BLOCK = re.compile(r"(<!-- figures: ([a-z]+) -->\n).*?(<!-- end -->)", re.S)

# (what, results' file, path to the ratio, to reach: at least ">", at most "<", "" where nothing is asked)
WAITS: tuple[tuple[str, str, str, str], ...] = (
    (
        "opening a run of 600 MeZO steps / its export, first time",
        "opening",
        "first / export",
        "",
    ),
    ("the same, again", "opening", "again / export", "< 1.3"),
    (
        "`zofo train` to its first step / python loading libraries and model",
        "startup",
        "ratios|zofo / libraries: first step",
        "< 1.3",
    ),
    ("the same to its end: dev and test measured, all saved", "startup", "ratios|zofo / libraries: end", ""),
    *(
        (f"lm-eval's HFLM / our scoring: {task}", "scoring", f"{task}|HFLM / zofo", "> 1.5")
        for task in ("sst2", "copa", "boolq")
    ),
    ("the same, long choices: piqa", "scoring", "piqa|HFLM / zofo", "> 2"),
    *(
        (
            f"our scoring / plain forwards over as many unpadded tokens: {task}",
            "scoring",
            f"{task}|zofo / plain",
            "< 1.15",
        )
        for task in ("sst2", "copa", "boolq", "piqa")
    ),
    ("HFLM / `zofo predict`, 2,000 reviews", "predict", "HFLM / zofo", ""),
    *(
        (f"texts of {name}: rows a second, of LoRA's", "texts", f"rows a second, of LoRA's|{name}", "> 0.8")
        for name in ("prefix", "prompt", "dept")
    ),
    ("dev: both candidates / what decides", "bilevel", "dev|both / one", ""),
    ("`p_start=s`: all terms / the one that does not cancel, 4x32", "bilevel", "upper|4x32|all / first", ""),
    ("a million rows, read, drawn and tokenized / tokenizing alone", "rows", "ours / alone", "< 1.3"),
    ("Trainer / our FO step, real batches of 8", "step", "epoch|trainer / ours", "> 2"),
    (
        "a MeZO step / its forwards, OPT-1.3B's shape, fp32, 4x64",
        "large",
        "opt-1.3b float32|4x64|mezo / limit",
        "< 1.1",
    ),
    ("the same, 4x256", "large", "opt-1.3b float32|4x256|mezo / limit", "< 1.1"),
    ("Llama-3.2-1B's shape, bf16, 4x64", "large", "llama-3.2-1b bfloat16|4x64|mezo / limit", "< 1.1"),
    (
        "theta's snapshot, 1.3 B weights in fp32 / a file of as many bytes",
        "large",
        "opt-1.3b float32|checkpoint|saved / plain",
        "",
    ),
    ("checkpoint of a bank of 42 tasks / a file of as many bytes", "large", "bank|saved / plain", ""),
)
RATIOS = (
    ("MeZO's step / two forwards without a shift", "mezo / limit", "1.10"),
    ("MeZO's arithmetic around the same forwards / ours", "mezo paper / mezo", "7; 4.5; 2"),
    ("Bilevel's upper step / (T = 10 FO steps + 2 mixed forwards + p's gradient)", "bilevel / parts", "1.00"),
    ("transformers.Trainer + PEFT / our FO step, one fixed batch", "trainer / fo", "1.3"),
    ("our FO step / two forwards", "fo / two forwards", ""),
    ("preset `authors` with T = 10, fp32 / Bilevel's step", "authors / bilevel", ""),
)
SECONDS = (
    ("two forwards", ("limit",)),
    ("MeZO, ours; as its paper has it", ("mezo", "mezo paper")),
    ("FO LoRA, ours; Trainer", ("fo", "trainer")),
    ("Bilevel's upper step (10 + 1 updates); `authors`", ("bilevel", "authors")),
)
OTHERS = (
    ("one fp32 pass over theta / an in-place scale", "pass|ours / in-place scale", "1.5"),
    ("MeZO's pass (torch.normal, in place) / ours", "pass|mezo / ours", "15"),
    ("options scored, one forward each / ours: COPA (two contexts)", "scoring|copa|each / ours", "4"),
    ("the same: movie reviews (one context, two words), 32 examples", "scoring|movie-reviews|each / ours", "4"),
)


def found(name: str, path: str) -> Any:
    """What a result's file has at a path with | between its keys; None where it has nothing."""
    file = RESULTS / f"{name}.json"
    value: Any = read_json(file) if file.is_file() else {}
    for key in path.split("|"):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def shown(value: Any) -> str:
    """1.21 (1.18 to 1.26), or a number alone."""
    if value is None:
        return NONE
    if not isinstance(value, dict):
        return _number(value)
    median, least, most = (_number(value[key]) for key in ("median", "min", "max"))
    return median if least == most else f"{median} ({least} to {most})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def waits() -> str:
    def rows() -> Iterator[list[str]]:
        for what, name, path, goal in WAITS:
            value = found(name, path)
            yield [what, shown(value), _judged(value, goal), f"`{name}`, {_where(name, path)}"]

    return table(["what waits", "ratio", "to reach", "from"], rows())


def _judged(value: Any, goal: str) -> str:
    """The goal, and whether it is met."""
    if not goal or value is None:
        return goal.replace("<", "at most").replace(">", "at least")
    sign, number = goal.split()
    middle = value["median"] if isinstance(value, dict) else value
    met = middle <= float(number) if sign == "<" else middle >= float(number)
    return f"at {'most' if sign == '<' else 'least'} {number}{'' if met else ': **missed**'}"


def _where(name: str, path: str) -> str:
    """Date, vector unit, threads and load of a result's machine, or of the part of it that has one of its own."""
    keys = path.split("|")
    machines = (found(name, "|".join([*keys[:depth], "machine"])) for depth in range(len(keys), -1, -1))
    machine = next((each for each in machines if each is not None), None)
    if machine is None:
        return NONE
    date, threads = machine["date"].split()[0], machine["threads"]
    return f"{date}, {machine['capability']}, {threads} thread{'s' * (threads > 1)}, load {machine['load'][0]:.0f}"


def steps() -> str:
    def by_size(path: str) -> list[str]:
        return [shown(found("step", f"sizes|{size}|ratios|{path}")) for size in SIZES]

    return table(["ratio", *SIZES, "to reach"], ([what, *by_size(path), goal] for what, path, goal in RATIOS))


def seconds() -> str:
    def of(size: str, names: Sequence[str]) -> str:
        medians = (found("step", f"sizes|{size}|seconds|{name}|median") for name in names)
        return "; ".join(NONE if value is None else f"{value:.3g}" for value in medians)

    return table(["seconds", *SIZES], ([what, *(of(size, names) for size in SIZES)] for what, names in SECONDS))


def others() -> str:
    return table(
        ["other", "ratio", "to reach"], ([what, shown(found("step", path)), goal] for what, path, goal in OTHERS)
    )


def ranks() -> str:
    """Two processes beside one, on one machine and over a slow link (docs/scale.md)."""

    def rows() -> Iterator[list[str]]:
        for method in ("mezo", "bilevel-zofo"):
            near, far = found("ranks", method), found("ranks_link", method)
            sent = NONE if near is None else f"{near['ranks']['two']['a_step']['sent']:,.0f}"
            seconds = (
                "; ".join(_number(near["seconds a counted step"][way]) for way in ("one", "two")) if near else NONE
            )
            slower = shown(found("ranks_link", f"{method}|linked / two"))
            key = "interface bytes a counted step, start and end included"
            wire = NONE if far is None else f"{far[key]:,.0f}"
            yield [f"`{method}`", shown(found("ranks", f"{method}|one / two")), seconds, sent, slower, wire]

    head = [
        "method",
        "one / two",
        "seconds a counted step",
        "bytes of payload sent a step",
        "over the link / near",
        "bytes there",
    ]
    return table(head, rows())


def offload() -> str:
    """Weights that come and go beside weights in memory (docs/scale.md)."""

    def rows() -> Iterator[list[str]]:
        for size in ("4x64", "16x256", "64x256"):
            one = found("offload", size)
            if one is None or "limit, MiB" not in one:
                yield [size, *[NONE] * 5]
                continue
            seconds = "; ".join(_number(one["seconds a step"][way]["median"]) for way in ("memory", "layers"))
            disk = "; ".join(_number(one["disk, seconds"][what]) for what in ("read", "write"))
            memory = f"{one['weights, MiB']:,.0f}; {one['limit, MiB']:,.0f}; {one['peak, MiB']:,.0f}"
            ratios = (shown(one[f"layers / {other}"]) for other in ("memory", "disk"))
            yield [size, memory, seconds, disk, *ratios]

    head = ["examples x tokens", "weights; limit; peak, MiB", "seconds a step: in memory; layer by layer"]
    head += ["the disk alone: read; write", "layer by layer / in memory", "/ the disk"]
    return table(head, rows())


ARMS = {  # of experiments/federated_plan.yaml
    "fedavg-lora": "FedAvg on LoRA, five local steps",
    "same": "`same`, MeZO",
    "own": "`own`, MeZO",
    "same-local-5": "`same`, MeZO, five local steps",
    "bilevel": "`same`, Bilevel ZOFO, adapters of the clients' own",
}


def federated() -> str:
    """FedAvg on LoRA beside coefficients alone (docs/scale.md)."""

    def rows() -> Iterator[list[str]]:
        for name, words in ARMS.items():
            path = RESULTS.parent / "federated" / f"{name}.json"
            if not path.is_file():
                yield [words, *[NONE] * 7]
                continue
            told = read_json(path)
            first, last = told["dev"][0], told["dev"][-1]
            reached = [
                next((str(point["step"]) for point in told["dev"] if point["metric"] >= goal), "no")
                for goal in (0.6, 0.7, 0.8)
            ]
            sent = [f"{told[way]:,.0f}" for way in ("bytes_up", "bytes_down")]
            losses = f"{first['loss']:.3f} (round {first['step']}); {last['loss']:.3f}"
            test = f"{told['test']['accuracy']:.3f}; {told['test']['loss']:.3f}"
            yield [words, str(told["rounds"]), *sent, losses, "; ".join(reached), test, f"{told['seconds']:,.0f}"]

    head = ["", "rounds", "bytes up", "bytes down", "dev loss: first seen; last", "rounds to dev accuracy .6; .7; .8"]
    return table([*head, "test: accuracy; loss", "seconds"], rows())


def common() -> str:
    """What all contenders of the leaderboard have alike (docs/leaderboard.md)."""
    return f"<!-- not run: zofo bench reads it -->\n```yaml\n{COMMON.read_text('utf-8')}```\n"


def standings() -> str:
    """The leaderboard over all tasks, and of each (docs/leaderboard.md)."""
    files = sorted((RESULTS.parent / "leaderboard").glob("*.json"))
    entries = {path.stem: read_entry(path) for path in files if path.name != "schema.json"}
    if not entries:
        return "Not run yet.\n"
    return "\n".join(f"**{heading}**\n\n{table(head, iter(rows))}" for heading, (head, *rows) in tables(entries))


MAKERS: dict[str, Callable[[], str]] = {
    "waits": waits,
    "steps": steps,
    "seconds": seconds,
    "others": others,
    "ranks": ranks,
    "offload": offload,
    "federated": federated,
    "common": common,
    "standings": standings,
}
PAGES = (PAGE, ROOT / "docs" / "scale.md", ROOT / "docs" / "leaderboard.md")


def written(page: str) -> str:
    """The page with its tables anew. Raises KeyError for figures that are not known."""
    return BLOCK.sub(lambda match: match[1] + MAKERS[match[2]]() + match[3], page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text("utf-8")), "utf-8")
