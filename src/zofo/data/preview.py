"""What is worth a look before training: prompts as the model reads them, lengths, labels, and what splits share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from zofo.config.sections import TaskConfig
from zofo.data import Example, TaskData
from zofo.data.tokenization import Encoded
from zofo.errors import first_few, printable

SPLITS = ("train", "dev", "test")
FILES = {"train": "train", "dev": "validation", "test": "test"}
FEW = 30  # examples, of which one answer is more than 3 % of a number
SHOWN = 600  # characters of a prompt; the middle of a longer one is left out


def preview(data: TaskData, encoded: Mapping[str, Sequence[Encoded]]) -> Iterator[str]:
    """Lines for a person. encoded: the examples of dev, test and each training stream."""
    trains = encoded.keys() - {"dev", "test"}  # else demonstrations may stand before what is evaluated: show that
    examples = data.train if trains and data.train else data.dev or data.test
    for example in list({e.group: e for e in reversed(examples)}.values())[::-1][:3] if data.groups else examples[:3]:
        yield from shown(example)
    for name, rows in encoded.items():
        if rows:
            yield f"{printable(name)}: {_lengths(rows)}{_tasks(rows) if data.groups else _balance(rows, data.labels)}"
    for split, n in data.repeated.items():
        if n:
            total = len(getattr(data, split))
            yield f"warning: {n} of {total} {split} examples are training examples too: drop them from the train file"


def sizes(data: TaskData, cfg: TaskConfig, selects: bool = True) -> Iterator[str]:
    """How many examples each split has, of how many that were asked for, or of how many rows that were given.

    selects: whether dev selects a checkpoint.
    """
    said = []
    for split in SPLITS:
        there, asked = len(getattr(data, split)), getattr(cfg, f"{split}_examples")
        said.append(f"{split} {there}" + (f" of {asked} asked for" if there < asked else ""))
    yield f"examples: {', '.join(said)}"
    if data.unread:
        yield f"columns that are not read: {first_few([printable(str(name), 60) for name in data.unread], 10)}"
    yield from unused(data, cfg, SPLITS)
    yield from few(data, cfg, ("dev", "test") if selects else ("test",), selects)


def few(
    data: TaskData, cfg: TaskConfig, splits: Sequence[str], selects: bool = False, trains: bool = True
) -> Iterator[str]:
    """A warning of the splits that are measured on fewer than FEW examples: what that means, and what to do; one for
    all that are cut from the training rows.

    Of many tasks none, each is measured by itself. selects: a checkpoint, by dev. trains: or only measures.
    """
    words: dict[str, list[str]] = {}
    cut = []
    for split in splits:
        there, asked = len(getattr(data, split)), getattr(cfg, f"{split}_examples")
        if data.groups or not 0 < there < FEW:
            continue
        n = f"{there} example{'s' * (there > 1)}"
        if selects and split == "dev":
            what = f"the checkpoint is selected by {n}, and another few would select another one"
        elif data.kind == "completion":
            what = f"a mean over {n} is rough"
        else:
            what = f"a number from {n} moves by {1 / there:.2g} when one answer changes"
        fix = f"give more rows in the {split} file"
        if data.given.get(split, there + 1) > there >= asked:
            fix = f"task.{split}_examples={asked}: raise it"
        elif split not in data.given:
            fix = "cut"
            cut.append(FILES[split])
        words.setdefault(fix, []).append(f"{split}: {what}")
    own = f"a {cut[0]} file of its own" if len(cut) == 1 else f"{' and '.join(cut)} files of their own"
    of_cut = f"give more rows, {own}, or a smaller task.train_examples"
    of_cut = of_cut if trains else "score more rows with --task FILE"
    for fix, whats in words.items():
        yield f"warning: {'; '.join(whats)}; {of_cut if fix == 'cut' else fix}"


def unused(data: TaskData, cfg: TaskConfig, splits: Sequence[str]) -> Iterator[str]:
    """A line for each file of which a setting takes a part alone: by default no more than 1000 rows are trained on."""
    for split in splits:
        given = data.given.get(split, 0)
        users = [split, *(other for other in SPLITS if split == "train" and other not in data.given)]
        used = sum(len(getattr(data, user)) for user in users)
        full = [user for user in users if data.groups or len(getattr(data, user)) >= getattr(cfg, f"{user}_examples")]
        if given > used and full:
            each = " of each task" if data.groups else ""
            takes = ", ".join(f"task.{user}_examples={getattr(cfg, f'{user}_examples')}" for user in full)
            what = f"{used} used" + (f" for {', '.join(users)}" if len(users) > 1 else "")
            yield f"rows of {split}: {given} given, {what}; {takes} takes no more{each}"


def shown(example: Example) -> Iterator[str]:
    """A prompt as it is, and its answers; * marks what is right."""
    text = example.prompt
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"
    yield f"--- {printable(str(example.id))}"
    yield printable(text, plain="\n\t")
    if example.unanswered:
        yield "    no answer: what is written is rewarded"
        return
    answers = [f"{'*' if i in example.gold else ''}{printable(repr(a), SHOWN)}" for i, a in enumerate(example.answers)]
    yield f"    answer{'s' * (len(answers) > 1)}: {first_few(answers, 10, ' | ')}"
    for turn in example.learnt:
        yield f"    learnt too: {printable(repr(example.prompt[turn.start : turn.stop]), SHOWN)}"
    if example.reference is not None:
        text = repr(example.reference)
        yield f"    compared with: {printable(text if len(text) <= SHOWN // 2 else text[: SHOWN // 2] + ' ...')}"


def _lengths(rows: Sequence[Encoded]) -> str:
    lengths = sorted(e.length for e in rows)
    at = [lengths[min(len(lengths) * p // 100, len(lengths) - 1)] for p in (50, 90, 99)]
    cut = sum(e.cut for e in rows)
    text = f"{len(rows)} examples, tokens {at[0]} (median) {at[1]} (90 %) {at[2]} (99 %) {lengths[-1]} (longest)"
    return text + (f", {cut} cut on the left to fit" if cut else "")


def _tasks(rows: Sequence[Encoded]) -> str:
    """How many examples are of which task."""
    counts = Counter(e.example.group for e in rows)
    sizes = sorted(set(counts.values()))
    return f"; {len(counts)} task{'s' * (len(counts) > 1)} of {f'{sizes[0]} to ' if len(sizes) > 1 else ''}{sizes[-1]}"


def _balance(rows: Sequence[Encoded], labels: Sequence[str]) -> str:
    """Shares of the right answers: by label, or by place where examples have answers of their own."""
    golds = [e.example.gold for e in rows]
    if max(len(e.example.answers) for e in rows) < 2 or not all(len(g) == 1 for g in golds):
        return ""
    counts = Counter(g[0] for g in golds)
    names = labels or [f"answer {i}:" for i in range(max(counts) + 1)]
    return "; right: " + ", ".join(f"{printable(name, 60)} {counts[i]}" for i, name in enumerate(names))
