"""What a run is made from, as digests: the base model, its tokenizer, the examples of each split.

A run's manifest keeps them, and so does an export; what is done with either later is done with the same, or says what
differs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from zofo.data import Example, TaskData
from zofo.data.rewards import Reward
from zofo.errors import InputError
from zofo.models.backbone import Loaded

log = logging.getLogger("zofo")
SPLITS = ("train", "dev", "test")
# Words, numbers, blanks, scripts, and bytes that no vocabulary has: whatever splits or merges otherwise shows here
SAMPLE = (
    "The quick brown fox, jumping over 1,234,567.89 lazy dogs; isn't it?",
    "  two blanks,\ttab\n\n\nand lines\r\n",
    "naïve café ﬁ ½ Ω ЖДЯ 漢字かな 한글 🙂 \u200d\u00a0",
    "def f(x): return {'a': [x ** 2, -0.5e-3]}  # HTTP://Example.org/?q=A&b=%20",
)


def inputs_of(base_sha256: str, loaded: Loaded, data: TaskData, reward: Reward | None = None) -> dict[str, Any]:
    """{"model", "tokenizer": hexadecimal SHA-256, "examples": {split: {"n", "sha256"}}}; where there is one, "reward":
    {"function": its name, "sha256": of its file}."""
    examples = {split: examples_digest(getattr(data, split)) for split in SPLITS}
    inputs = {"model": base_sha256, "tokenizer": tokenizer_digest(loaded.tokenizer), "examples": examples}
    return inputs if reward is None else inputs | {"reward": reward.recorded}


def examples_digest(examples: Sequence[Example]) -> dict[str, Any]:
    """Of what is trained on and measured, in order, and not of where it stands: a file may be moved or renamed."""
    digest = hashlib.sha256()
    for e in examples:
        content = [e.prompt, e.answers, e.gold, e.cuttable, e.reference, e.null_prompt, e.leads, e.group]
        content += [e.learnt] if e.learnt else []  # digests of before there were any stay what they are
        content += [] if e.source is None else [e.source.row]  # which a reward reads
        digest.update(json.dumps(content, default=str, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n")
    return {"n": len(examples), "sha256": digest.hexdigest()}


def tokenizer_digest(tokenizer: Any) -> str:
    """By what it does: its vocabulary, special tokens and chat template, and how it splits SAMPLE."""
    content = [
        sorted(tokenizer.get_vocab().items()),
        [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")],
        getattr(tokenizer, "chat_template", None),
        [tokenizer(text)["input_ids"] for text in SAMPLE],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def check_inputs(then: Mapping[str, Any], now: Mapping[str, Any], what: str, fix: Mapping[str, str]) -> None:
    """Raises InputError with a line for each input of `now` that is not what it was. then: {}: nothing is known.

    what: how an error begins. fix: {"model", "tokenizer", "examples": what can be done}.
    """
    lines = []
    for key, name in (("model", "base model"), ("tokenizer", "tokenizer")):
        if key in now and then.get(key, now[key]) != now[key]:
            lines.append(f"{what}: the {name} is not the one that the run was made with; {fix[key]}")
    lines += other_reward(then, now.get("reward"), what)
    for split, digest in now.get("examples", {}).items():
        before = then.get("examples", {}).get(split, digest)
        if before != digest:
            counts = f"as many, {digest['n']}"
            if before["n"] != digest["n"]:
                counts = f"the run had {before['n']}, and here {'is' if digest['n'] == 1 else 'are'} {digest['n']}"
            lines.append(f"{what}: other {split} examples than the run was made with ({counts}); {fix['examples']}")
    if lines:
        raise InputError("\n".join(lines))


def other_reward(then: Mapping[str, Any], now: Mapping[str, Any] | None, what: str) -> list[str]:
    """A line where the reward has another content than the run's. now: as `Reward.recorded`."""
    before = then.get("reward")
    if before is None or now is None or before["function"] != now["function"]:  # another setting, which is said
        return []
    if None in (before["sha256"], now["sha256"]):
        log.warning("%s: whether the reward %s is the run's is not known: it has no source", what, now["function"])
        return []
    if before["sha256"] == now["sha256"]:
        return []
    return [
        f"{what}: the reward {now['function']} has another source than the run's (SHA-256 {now['sha256'][:12]}, and "
        f"the run had {before['sha256'][:12]}); give the file as it was, or start a new run"
    ]


def check_tasks(then: dict[str, list[str]] | None, now: dict[str, list[str]] | None) -> None:
    """Raises InputError where the data of a setting holds other training tasks than at the start of the run."""
    for what in ("train", "held_out"):
        before, here = ((tasks or {}).get(what, []) for tasks in (then, now))
        if before != here:  # in another order too, which is another draw of the tasks
            gone, new = (", ".join(sorted(set(a) - set(b))) for a, b in ((before, here), (here, before)))
            raise InputError(
                f"cannot resume: task.data holds other {'training' if what == 'train' else 'held-out'} tasks than "
                f"the run was made with; "
                + (
                    "; ".join(f"{word}: {names}" for word, names in (("missing", gone), ("new", new)) if names)
                    or "their order"
                )
            )
