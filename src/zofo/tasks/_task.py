"""From a task's name, or one's own files, to three lists of examples, fixed by a seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo import registry
from zofo.errors import InputError
from zofo.tasks._chat import Chat, Make
from zofo.tasks._example import Example, TaskData
from zofo.tasks._files import READERS, Record, Tables, file_of, read_tables
from zofo.tasks._local import own_task
from zofo.tasks._spec import TaskSpec, check_columns, load_spec, maker

if TYPE_CHECKING:
    from zofo.config import TaskConfig

log = logging.getLogger("zofo")


def load_task(cfg: TaskConfig, seed: int, tokenizer: Any = None) -> TaskData:
    """Read and sample a task. The same seed gives the same examples in the same order.

    dev comes from `train` unless local data has a validation file, test from `train` only where there is no test file.
    `tokenizer` is needed for chats alone. Raises InputError naming the file, the line and the fix.
    """
    known = settle(cfg)
    if known is None:
        return _own_files(cfg, seed, tokenizer)
    spec, make = known
    name = Path(cfg.name).stem.replace("_", "-")
    tables = read_tables(Path(cfg.data), name) if cfg.data else _hub_tables(spec, name)
    check_columns(spec, cfg.template, tables)
    objective = spec.objective if cfg.objective == "auto" else cfg.objective
    if cfg.apply_chat_template:
        make = Chat(tokenizer, cfg.system).wrap(make, objective)
    train, dev, test = _sample(tables, make, cfg, seed)
    return TaskData(name, spec.version, objective, spec.metric, train, dev, test, tuple(spec.labels))


def settle(cfg: TaskConfig) -> tuple[TaskSpec, Make] | None:
    """A known task's spec and its template at work; None for own files.

    Raises InputError for all that can be found wrong before any data is read.
    """
    spec = find_spec(cfg.name)
    if spec is None:
        if cfg.data:
            raise InputError(f"task.data: is for known tasks; task.name={cfg.name} already names the data")
        return None
    name = Path(cfg.name).stem.replace("_", "-")
    if cfg.choices is not None:
        raise InputError(
            f"task.choices: is for own files with text and label; the answers of {name} are in {spec.file}"
        )
    if cfg.objective == "options" and spec.kind == "completion":
        raise InputError(f"task.objective: {name} has completions, no options; use lm")
    return spec, maker(spec, cfg.template)


def find_spec(name: str) -> TaskSpec | None:
    """The spec of a known task or of a task file; None for a file or directory of one's own data."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_spec(path)
    if path.suffix in READERS or (registry.canonical(name) not in registry.names("tasks") and path.exists()):
        return None
    return load_spec(registry.load("tasks", name))


def _own_files(cfg: TaskConfig, seed: int, tokenizer: Any) -> TaskData:
    path = Path(cfg.name)
    tables = read_tables(path)
    chat = Chat(tokenizer, cfg.system)
    own = own_task(tables, cfg.template, cfg.choices, chat)
    objective = cfg.objective
    if objective == "auto":
        objective = "options" if own.kind == "options" else "lm"
    if objective == "options" and own.kind == "completion":
        raise InputError(f"task.objective: {path.name} has completions, no options; use lm")
    make = chat.wrap(own.make, objective) if cfg.apply_chat_template else own.make
    train, dev, test = _sample(tables, make, cfg, seed)
    metric = "accuracy" if own.kind == "options" else "loss"
    return TaskData(path.stem, 1, objective, metric, train, dev, test, own.labels)


# ----------------------------------------------------------------------------------------------------------- the hub


class _HubRows(Sequence[Record]):
    """Rows of a hub data set, decoded when asked for: a sample of 1000 must not read 400,000."""

    def __init__(self, rows: Any, prefix: str):
        self.rows, self.prefix = rows, prefix

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        place = f"{self.prefix}/{index}"
        return Record(place, f"{self.prefix}:{index}", self.rows[index])


def _hub_tables(spec: TaskSpec, name: str) -> Tables:
    if spec.hub is None:
        raise InputError(f"task {name} needs data: {spec.missing}")
    from datasets import load_dataset

    tables: Tables = {}
    try:
        for split, theirs in (spec.splits or {"train": "train"}).items():
            rows = load_dataset(spec.hub.path, spec.hub.name, split=theirs, revision=spec.hub.revision)
            tables[split] = _HubRows(rows, f"{name}/{theirs}")
    except Exception as e:  # no network, a renamed data set, a gated one: the fix is the same
        what = f"{spec.hub.path} {spec.hub.name or ''}".strip()
        reason = (str(e).splitlines() or [""])[0] or type(e).__name__
        raise InputError(
            f"task {name}: cannot load {what} from the hub ({reason}); give task.data=DIR with train.jsonl "
            f"[, validation.jsonl, test.jsonl], columns: {', '.join(spec.columns)}"
        ) from None
    return tables


# ---------------------------------------------------------------------------------------------------------- samples


def _sample(tables: Tables, make: Make, cfg: TaskConfig, seed: int) -> tuple[list[Example], ...]:
    """(train, dev, test). What has no file of its own is cut from train, and then shares no example with it."""
    wanted = {"dev": cfg.dev_examples, "test": cfg.test_examples, "train": cfg.train_examples}
    taken: dict[str, list[Example]] = {}
    cut = _cut_sizes(len(tables["train"]), {s: n for s, n in wanted.items() if s not in tables}, cfg.train_examples)
    owner: dict[tuple[str, tuple[str, ...]], str] = {}  # the same text, if cut by us, stays on one side
    shuffled = _shuffled(tables["train"], make, f"{seed}/split/train")
    repeats = 0
    for split, n in {**cut, "train": cfg.train_examples}.items():
        taken[split] = []
        while len(taken[split]) < n and (example := next(shuffled, None)):
            if owner.setdefault((example.prompt, example.answers), split) == split:
                taken[split].append(example)
            else:
                repeats += 1
    for split in tables.keys() - {"train"}:
        rows = _shuffled(tables[split], make, f"{seed}/split/{split}")
        taken[split] = [example for _, example in zip(range(wanted[split]), rows)]
    for split, n in wanted.items():
        if n and not taken[split]:  # then every row was looked at
            rows = f"{len(tables['train'])} rows, {len(owner)} distinct," if repeats else f"{len(tables['train'])} rows"
            raise InputError(f"{file_of(tables['train'])}: no {split} examples: {rows} are too few to be split")
    missed = len(taken["train"]) < cfg.train_examples  # with rows to spare, others have taken their place
    if repeats and missed:
        log.warning("%s: %d training rows repeat a dev or test row: left out", file_of(tables["train"]), repeats)
    return taken["train"], taken["dev"], taken["test"]


def _cut_sizes(rows: int, wanted: dict[str, int], train: int) -> dict[str, int]:
    """How much of train becomes dev and test: what train does not need, and at least a tenth of the rows each."""
    spare = max(rows - train, 0)
    total = max(sum(wanted.values()), 1)
    return {split: min(n, max(spare * n // total, rows // 10, 1)) for split, n in wanted.items()}


def _shuffled(records: Sequence[Record], make: Make, seed: str) -> Iterator[Example]:
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    return (make(records[i]) for i in order)
