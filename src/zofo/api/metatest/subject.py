"""What is meta-tested: a run, an export or a plain model, with room for an adapter that is tuned again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from zofo.api.restore import Given, restore
from zofo.api.states import is_run
from zofo.api.targets import open_target
from zofo.config import registry
from zofo.config.resolve import Config
from zofo.data import Example, TaskData
from zofo.data.checks import check_words
from zofo.data.loader import shorter
from zofo.data.option_tree import option_trees
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import InputError
from zofo.eval.evaluator import Evaluator, make_evaluator
from zofo.eval.likelihood import Evaluation
from zofo.methods._first_order import Descent
from zofo.models.adapters._bank import mean
from zofo.models.adapters._set import CONFIG, AdapterSet, room
from zofo.models.backbone import Loaded
from zofo.models.scorer import Scorer
from zofo.models.tree_probe import share_prompts
from zofo.train.run_dir import RunDir
from zofo.zo.keys import derive
from zofo.zo.point import Point

TUNED = "tuned"
State = dict[str, Tensor]


@dataclass
class Subject:
    """The backbone never moves. Where an adapter is tuned it starts from a copy each time, so every tuning is apart.

    starts: {way that needs an adapter: the tensors it starts from}. sha256: of the backbone and the starts.
    """

    loaded: Loaded
    scorer: Scorer
    adapters: AdapterSet | None
    starts: dict[str, State]
    batch_size: int
    sha256: str
    _probed: int = 0  # tokens of the longest rows that were packed and tried

    def _room(self, way: str, limit: int) -> int | None:
        """Tokens of an example: the task's limit, and the model's beside what the way puts in front of a row."""
        virtual = self.adapters.virtual if self.adapters and way in self.starts else 0
        return shorter(room(self.loaded.max_length, self.loaded.model.config, virtual), limit)

    def encode(self, examples: Sequence[Example], limit: int, way: str, for_eval: bool, what: str) -> list[Encoded]:
        """limit: tokens that the task allows. A prompt's common start is computed once for all its options."""
        length = self._room(way, limit)
        encoded = tokenize_all(self.loaded.tokenizer, examples, length, "gold", False, for_eval, what)
        check_words(encoded, self.loaded.beyond)
        return self._packed(encoded, length, what) if for_eval else encoded

    def _packed(self, encoded: list[Encoded], length: int | None, what: str) -> list[Encoded]:
        """With a common start computed once; that the model takes such rows is tried once for rows of a length: a trial
        costs what three examples do without it, and a small test set has few more."""
        longest = max(e.length for e in encoded)
        if longest <= self._probed:
            return option_trees(encoded, length)
        packed = share_prompts(self.scorer, {what: encoded}, length)[what]
        if any(after is not before for before, after in zip(encoded, packed)):
            self._probed = longest
        return packed

    def measure(self, encoded: Sequence[Encoded], data: TaskData, limit: int, way: str) -> Evaluation:
        """Options scored by the backbone alone; with the adapter as it stands where the way has one."""
        evaluator = self._evaluator(data, self._room(way, limit))
        if self.adapters is None:
            return evaluator(encoded)
        with self.adapters.active(TUNED) if way in self.starts else self.adapters.without():
            return evaluator(encoded)

    def _evaluator(self, data: TaskData, length: int | None) -> Evaluator:
        loaded = replace(self.loaded, max_length=length)
        return make_evaluator(self.scorer, data, loaded, self.batch_size, 0, adapters=self.adapters)

    def begin(self, way: str) -> None:
        """The adapter is where tunings of this way start."""
        assert self.adapters is not None
        self.adapters.put(TUNED, self.starts[way])

    def tune(
        self,
        way: str,
        encoded: Sequence[Encoded],
        data: TaskData,
        steps: int,
        batch_size: int,
        rate: float,
        seed: int,
    ) -> float:
        """AdamW steps of the adapter from the way's start, on a few examples. Returns the last batch's loss.

        seed: of the order in which the examples come.
        """
        assert self.adapters is not None
        self.begin(way)
        descent = Descent(self.adapters.parameters(TUNED))
        batches = Stream(encoded, min(batch_size, len(encoded)), self.scorer.pad_id, seed, "tune")
        loss, value = self._evaluator(data, None).loss, 0.0
        with self.adapters.active(TUNED):
            for _ in range(steps):
                value = loss.backward(next(batches))
                descent.step(rate)
        return value


def open_subject(
    target: str | Path,
    config: Config | None,
    ways: Sequence[str],
    batch_size: int,
    seed: int,
    given: Given | None = None,
) -> Subject:
    """Load the target's backbone, and an adapter where a way needs one: the run's kind, LoRA if it has none."""
    if is_run(Path(target)):
        loaded = restore(Path(target), "theta", given).loaded
    else:
        opened = open_target(target, None, given)
        loaded = opened.loaded
        if opened.model is not loaded.model:
            raise InputError(f"{target}: an adapter's directory; give the run it is of, or the backbone alone")
    needed = [way for way in ways if way in ("zero-shot-s", "tuned", "tuned-fresh")]
    adapters, starts, scorer = None, dict[str, State](), loaded.scorer()
    digest = hashlib.sha256(loaded.base_sha256(Point(loaded.model)).encode())
    if needed:
        name = config.names.get("adapter", "lora") if config else "lora"
        module = registry.load("adapters", name)
        settings = config.adapter if config and config.adapter is not None else module.Config()
        adapters = module.Adapter(settings).build(loaded.model, (TUNED,), derive(seed, "adapter"), loaded.tokenizer)
        fresh = _copy(adapters)
        for way in needed:
            starts[way] = fresh if way == "tuned-fresh" else _trained(adapters, Path(target), fresh)
    if adapters:
        scorer = replace(scorer, model=adapters.model)
    for way, state in starts.items():
        digest.update(way.encode() + b"".join(value.cpu().numpy().tobytes() for value in state.values()))
    return Subject(loaded, scorer, adapters, starts, batch_size, digest.hexdigest())


def _copy(adapters: AdapterSet) -> State:
    return {key: param.detach().clone() for key, param in adapters.parameters(TUNED).items()}


def _trained(adapters: AdapterSet, run: Path, fresh: State) -> State:
    """The run's s; where each training task has its own, their mean."""
    run_dir = RunDir(run)
    directory = run_dir.best(run_dir.read_info()["best_step"]) / "s"
    folders = [directory] if (directory / CONFIG).is_file() else sorted(p for p in directory.glob("*") if p.is_dir())
    if not folders:
        raise InputError(f"{directory}: missing, so there is no s to start from")
    states = []
    for folder in folders:
        try:
            adapters.restore(TUNED, folder)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: {error}") from error
        states.append(_copy(adapters))
    adapters.put(TUNED, fresh)
    return states[0] if len(states) == 1 else mean(states)
