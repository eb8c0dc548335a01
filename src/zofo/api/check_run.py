"""`zofo validate RUN`: a run's files looked at one by one, and what can be made again made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zofo.api.restore import given_model, with_given
from zofo.api.standing import gone_on, standing
from zofo.config.instantiate import make_method
from zofo.config.json_text import read_json
from zofo.config.resolve import Config
from zofo.config.resolve import load as load_config
from zofo.config.sections import exists
from zofo.config.task_rows import moved
from zofo.errors import InputError
from zofo.models.sealed import verify_tree
from zofo.train import checkpoint
from zofo.train.adapter_start import check_kept, kept_in
from zofo.train.ending import Ending
from zofo.train.files import looks_like_run
from zofo.train.ownership import BEST, CHECKPOINT, START, step_of
from zofo.train.run_dir import RunDir
from zofo.train.whole import going_on, instead_of, whole_ones
from zofo.zo.journal import JournalError, read_header, scan

KEYS = {"format", "id", "inputs", "files", "config", "info", "readme", "outcome", "federation"}  # of manifest.json
AGAIN = "train again with --resume latest, which writes it anew"
COPY = "put back a copy, or train again (--overwrite)"
UNCHECKED = "metrics.jsonl, README.md, eval/, superseded/: that they are there, and no more: nothing is made from them"


def check_run(
    path: str | Path, model: str | None = None, overrides: Sequence[str] = (), data: str | None = None
) -> list[tuple[str, str]]:
    """[(what was checked, its fault, or "" where it is whole)]; where something is not checked, what says so and why.

    model, data: where the base model and the rows are now. overrides: "model.key=value". Nothing is written. Raises
    InputError where no run is, and for an override that is none.
    """
    given, _ = given_model(model, overrides, "of a run validate")
    if data is not None and not exists(data):
        raise InputError(f"--data: no such file or directory: {data}")
    if not looks_like_run(Path(path)):
        raise InputError(f"{path}: no run here; give a run's directory, or a CONFIG.yaml")
    check = _Check(run := RunDir(path))
    check.files()
    check.results += _outcome(run)
    if check.config is not None and not check.faulty:
        from zofo.api.check_weights import check_weights

        base = replace(check.config.model, trust_remote_code=False)  # which a file cannot ask for
        config = replace(check.config, model=with_given(base, given) if given else base)
        if data is not None:
            config = replace(config, task=replace(config.task, **moved(config.task, data)))
        check.results += check_weights(check.run, config, check.info, check.states)
    elif check.faulty:
        check.results.append(("weights, replay, examples: not checked before the files are whole", ""))
    check.results.append((UNCHECKED, ""))
    return check.results


def _outcome(run: RunDir) -> list[tuple[str, str]]:
    """How the run ended, which is no fault of a file."""
    try:
        ending = standing(run)
    except InputError:  # what is wrong with run.json or manifest.json is said
        return []
    words = ending.words() or {"finished": "came to its end"}.get(ending.kind, "")
    return [(f"outcome: the run {words}" if words else "outcome: not known, of a version that kept none", "")]


class _Check:
    """Of the files: what needs neither the base model nor the data."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.results: list[tuple[str, str]] = []
        self.config: Config | None = None
        self.info: dict[str, Any] = {}
        self.states: dict[Path, dict[str, Any]] = {}  # of the checkpoints
        self.whole_manifest = True

    @property
    def faulty(self) -> bool:
        return any(fault for _, fault in self.results)

    @contextmanager
    def _one(self, what: str) -> Iterator[Callable[[Path, str], None]]:
        """One thing that is checked: what its block raises, or is told by the function that it is given, is a fault."""
        faults: list[str] = []
        try:
            yield lambda path, fault: faults.append(f"{path}: {fault}")
        except InputError as error:
            faults += str(error).split("\n")
        self.results += [(what, fault) for fault in faults] or [(what, "")]

    def files(self) -> None:
        self._manifest()
        with self._one("config.yaml: as the run wrote it") as fault:
            path = self.run.config
            if self.whole_manifest and path.is_file() and not self.run.as_written("config", path):
                fault(path, f"changed since the run wrote it, or manifest.json was; {COPY}")
            else:
                self.config = self.run.read_config() if self.whole_manifest else load_config(path)
        if self.run.info.exists():
            self._info()
        for directory in self._directories(CHECKPOINT):
            self._checkpoint(directory)
        self._unnamed()
        for directory in self._directories(BEST):
            with self._one(f"{directory.name}: its files have their checksums"):
                self._verify(directory)
        if self._began_with_an_adapter():
            with self._one(f"{START}: its files have their checksums"):
                check_kept(self.run)
        self._referred()
        if self.run.journal.exists():
            self._journal()

    def _began_with_an_adapter(self) -> bool:
        """As manifest.json has it; where that is damaged, which is said already, as the directory has it."""
        if not self.whole_manifest:
            return kept_in(self.run).is_dir()
        return START in self.run.manifest.get("files", ()) or "start" in self.run.inputs

    def _verify(self, directory: Path) -> None:
        try:
            verify_tree(directory)
        except InputError as error:
            raise InputError(f"{error}; {instead_of(self.run, directory, self._whole)}") from None

    @cached_property
    def _whole(self) -> list[Path]:
        return whole_ones(self.run) if self.whole_manifest else []

    def _manifest(self) -> None:
        path = self.run.root / "manifest.json"
        with self._one("manifest.json: well formed, and what it names is there") as fault:
            self.whole_manifest = False
            if not path.is_file():
                if self._has_manifest():
                    fault(path, f"missing; {COPY}")
                    return
            else:
                for key in {*self.run.manifest} - KEYS:
                    fault(path, f"damaged, or of a later version: unknown key {key!r:.60}; {COPY}")
                names = self.run.manifest.get("files", ())
                ended = "run.json" in names  # else a kill may have come between a name here and its file
                for name in names:
                    kind, _, number = name.partition("-")
                    numbered = kind in (CHECKPOINT, BEST) and number.isdigit()  # may be deleted where none refers to it
                    of_end = name == "README.md" or name.startswith("eval/")
                    if not numbered and (ended or not of_end) and not (self.run.root / name).exists():
                        fault(self.run.root / name, f"missing; {COPY if name in ('journal.bin', START) else AGAIN}")
            self.whole_manifest = True

    def _has_manifest(self) -> bool:
        """Whether the run was written by a version that keeps one: its other files say so."""
        for path in (self.run.info, *self.run.root.glob(f"{CHECKPOINT}-*/state.json")):
            try:
                content = read_json(path)
            except InputError:
                continue
            if "inputs" in content or content.get("run"):
                return True
        return False

    def _directories(self, kind: str) -> list[Path]:
        if self.whole_manifest and self.run.manifest:
            return self.run.checkpoints() if kind == CHECKPOINT else self.run.bests()
        paths = (path for path in self.run.root.glob(f"{kind}-*") if path.is_dir())
        return sorted(path for path in paths if path.name.removeprefix(f"{kind}-").isdigit())

    def _info(self) -> None:
        path = self.run.info
        with self._one("run.json: as the run wrote it") as fault:
            info = self.run.read_info()
            if self.whole_manifest and not self.run.as_written("info", path):
                fault(path, f"changed since the run wrote it, or manifest.json was; {AGAIN}")
            if self.config is not None:
                of_run: dict[str, Any] = {"seed": self.config.train.seed}
                if self.whole_manifest and self.run.id:  # before that some methods had other names
                    of_run["method"] = self.config.names["method"]
                for key, value in of_run.items():
                    if info[key] != value:
                        fault(path, f"{key} is {info[key]!r:.60}, and config.yaml has {value!r:.60}; {AGAIN}")
            if self.whole_manifest and self.run.inputs and info.get("inputs") != self.run.inputs:
                fault(self.run.root / "manifest.json", f"its inputs are not those of run.json; {COPY}")
            self.info = info

    def _checkpoint(self, directory: Path) -> None:
        with self._one(f"{directory.name}: its files have their checksums, it is this run's") as fault:
            self._verify(directory)
            state = checkpoint.read(directory, "state")
            if self.whole_manifest and state.get("run") != self.run.id:
                fault(directory, f"another run's, by manifest.json; {COPY}")
            if self.whole_manifest and self.run.inputs.get("model", state.get("base_sha256")) != state["base_sha256"]:
                fault(directory, f"of another base model than manifest.json's; {COPY}")
            self.states[directory] = state

    def _unnamed(self) -> None:
        """A checkpoint of this run that manifest.json does not name would be taken for somebody else's. Under another
        name than its step's it is a copy, which is no fault of the manifest's."""
        faulty, paths = self.faulty, sorted(self.run.root.glob(f"{CHECKPOINT}-*/state.json"))
        for path in paths if self.whole_manifest and self.run.id else ():
            with self._one(f"{path.parent.name}: named in manifest.json") as fault:
                if path.parent in self.states or _id_in(path) != self.run.id or faulty:
                    continue
                if (step := step_of(path.parent)) is not None and path.parent.name != f"{CHECKPOINT}-{step}":
                    words = f"this run's {CHECKPOINT}-{step}, copied or renamed, so no verb goes on from it"
                    fault(path.parent, f"{words}; move it away, or back to its name")
                else:
                    fault(self.run.root / "manifest.json", f"damaged, it does not name {path.parent.name}; {COPY}")

    def _referred(self) -> None:
        """The bests that run.json and the checkpoints need are there."""
        named = self._directories(BEST)
        then = Ending.read(self.info.get("outcome"))
        counts = {} if gone_on(self.run, then) else {self.run.info: self.info.get("best_step")}
        counts |= {directory: state["best"]["count"] for directory, state in self.states.items() if state["best"]}
        with self._one("what run.json and checkpoints refer to is there") as fault:
            for path, count in counts.items():
                if count is not None and self.run.best(count) not in named and self._keeps_bests():
                    fault(self.run.best(count), f"missing here or in manifest.json, and {path.name} needs it; {COPY}")

    def _keeps_bests(self) -> bool:
        """Not where nothing is trained."""
        return self.config is None or make_method(self.config).per_step > 0

    def _journal(self) -> None:
        path = self.run.journal
        with self._one(
            "journal.bin: every record in its place, positions of checkpoints and run.json among them"
        ) as fault:
            header = read_header_of(path)
            if self.config is not None:
                for key in _differences(header, self.config):
                    fault(path, f"another run's: its {key} is not config.yaml's; {COPY}")
            borders = {}
            try:
                borders[read_header(path)[1]] = None
                for _, border in scan(path):
                    borders[border.offset] = border.crc
            except (JournalError, OSError) as error:
                before = [directory for directory, state in self.states.items() if state["journal"] in borders]
                go = f", or go on from before that: {going_on(self.run.root, before[-1])}" if before else ""
                raise InputError(f"{error}{go}") from error
            for where, position, crc in self._positions():
                if position not in borders:
                    fault(path, f"{where} needs its first {position} bytes, and no record ends there; {COPY}")
                elif crc is not None and borders[position] not in (None, crc):
                    fault(path, f"up to byte {position} not the one that {where} was made with; {COPY}")

    def _positions(self) -> Iterator[tuple[str, int, int | None]]:
        """(whose, bytes of the journal, the checksum there where it is known)"""
        if self.info.get("journal_position") is not None:
            yield "run.json", self.info["journal_position"], None
        for directory, state in self.states.items():
            if state["journal"] is not None:
                yield directory.name, state["journal"], state.get("journal_crc")
            if state["best"] and state["best"]["journal"] is not None:
                yield f"{directory.name}'s best", state["best"]["journal"], None


def _id_in(state: Path) -> str | None:
    try:
        return read_json(state).get("run")
    except InputError:
        return None


def read_header_of(path: Path) -> dict[str, Any]:
    """Of a journal. Raises InputError."""
    try:
        return read_header(path)[0]
    except (JournalError, OSError) as error:
        raise InputError(str(error)) from error


def _differences(header: dict[str, Any], config: Config) -> Iterator[str]:
    """What a journal was written with and is not the configuration's. What a later version added is no difference."""
    if header["seed"] != config.train.seed:
        yield "seed"
    for section in ("estimator", "rule", "mask"):
        part = getattr(config, section)
        then, now = header[section] or {}, {"name": config.names[section], **asdict(part)} if part else {}
        if any(key in now and repr(_plain(now[key])) != repr(_plain(value)) for key, value in then.items()):
            yield section


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value
