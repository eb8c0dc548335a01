"""How a run ended, as its files keep it: run.json of one that came to its end, manifest.json of one that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STORED = ("finished", "failed", "interrupted")
KINDS = (*STORED, "going", "cut", "unknown")
_TEXTS, _NUMBERS = ("kind", "reason", "weights", "fix"), ("step", "of")


@dataclass(frozen=True)
class Ending:
    """kind: `finished`; `failed`, for a reason; `interrupted`; `going`: a process is at it; `cut`: none is, and none
    said why, so it was killed; `unknown`: of a version that kept none. reason: why, or who. weights: what they are, of
    one that failed at its end. fix: what to do. step, of: counted steps."""

    kind: str
    reason: str = ""
    weights: str = ""
    fix: str = ""
    step: int | None = None
    of: int | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Ending:
        """What `to_dict` wrote; unknown for None."""
        return cls("unknown") if stored is None else cls(**{key: stored[key] for key in stored if key in cls.fields()})

    @staticmethod
    def fields() -> tuple[str, ...]:
        return (*_TEXTS, *_NUMBERS)

    def to_dict(self) -> dict[str, Any]:
        """Without what is empty, and without who is at it."""
        private = ("reason",) if self.kind == "going" else ()
        return {key: value for key, value in asdict(self).items() if value not in ("", None) and key not in private}

    @property
    def failed(self) -> bool:
        return self.kind == "failed"

    def words(self, private: bool = True) -> str:
        """What goes on from "the run ...", such as `was interrupted at step 4 of 8`; "" where there is nothing to say.

        private: who is at it, too, which a file that is passed on does not tell.
        """
        at = "" if self.step is None or self.weights else f" at step {self.step} of {self.of}"
        if self.kind == "failed":
            why = "; ".join(part for part in (self.reason, self.weights and f"its weights are {self.weights}") if part)
            return f"failed{at}: {why}"
        if self.kind == "interrupted":
            return f"was interrupted{at}" + (f", {self.reason}" if self.reason else "")
        if self.kind == "going":
            return "is still going" + (f" ({self.reason})" if private and self.reason else "")
        return "is not finished" if self.kind == "cut" else ""


def well_formed(stored: object, kinds: Sequence[str] = STORED) -> bool:
    """Whether a file's outcome is one that `Ending.read` takes; None is."""
    if stored is None:
        return True
    if not isinstance(stored, dict) or stored.get("kind") not in kinds:
        return False
    texts = all(isinstance(stored.get(key, ""), str) for key in _TEXTS)
    numbers = [stored.get(key) for key in _NUMBERS]
    return texts and all(number is None or type(number) is int for number in numbers)
