"""More than a hundred hostile programs: none gets out, none goes on for ever, none forges a pass; benign ones pass.

A part of them by default, all of them with the slow tests.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.bomb_programs import BOMBS
from tests.hostile_programs import BENIGN, CHECK, ESCAPES, FORGERIES, TRY
from tests.sandboxed import gone, mark, needs_sandbox
from zofo.eval import sandbox
from zofo.eval.sandbox import Limits, Outcome

pytestmark = needs_sandbox
EVERY = [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(6, id="a sixth")]


def ended(programs: dict[str, str], limits: Limits) -> dict[str, Outcome]:
    """Outcomes by name. Nothing that the programs started is left."""
    name, line = mark()
    outcomes = sandbox.run_all([text.replace("#MARK", line) for text in programs.values()], limits, workers=2)
    assert gone(name)
    return dict(zip(programs, outcomes, strict=True))


def part(programs: dict[str, str], every: int) -> dict[str, str]:
    return {name: programs[name] for name in list(programs)[::every]}


def test_there_are_many() -> None:
    assert len(ESCAPES) + len(FORGERIES) + len(BOMBS) >= 90
    assert len({*ESCAPES.values(), *FORGERIES.values(), *BOMBS.values()}) >= 90


@pytest.mark.parametrize("every", EVERY)
def test_no_program_escapes(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret")
    monkeypatch.setenv("A_KEY", "a secret")
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    (tmp_path / "canary").write_text("here")
    (tmp_path / "canary").chmod(0o666)
    texts = {
        name: "#MARK"
        + TRY
        + text.replace("{pid}", str(os.getpid())).replace("{{", "{").replace("}}", "}").replace("{}", str(tmp_path))
        for name, text in part(ESCAPES, every).items()
    }
    outcomes = ended(texts, Limits(seconds=60))
    escaped = {name: outcome.output for name, outcome in outcomes.items() if "ESCAPED" in outcome.output}
    assert not escaped
    unclear = {name: outcome for name, outcome in outcomes.items() if not outcome.passed}
    assert not unclear, "it was to be refused, and to reach its end"
    assert (tmp_path / "canary").read_text() == "here"
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]


@pytest.mark.parametrize("every", EVERY)
def test_no_program_forges_a_pass(every: int) -> None:
    texts = {name: f"{text}\n{CHECK}" for name, text in part(FORGERIES, every).items()}
    outcomes = ended(texts, Limits(seconds=20))
    forged = {name: outcome for name, outcome in outcomes.items() if outcome.passed}
    assert not forged


@pytest.mark.parametrize("every", EVERY)
def test_no_program_hangs_or_takes_the_machine(every: int) -> None:
    texts = {name: f"#MARK{text}" for name, text in part(BOMBS, every).items()}
    before, begun = psutil.Process().memory_info().rss, time.monotonic()
    hidden = {name for name in texts if name.startswith(("shared memory", "sockets", "children"))}
    outcomes = dict[str, Outcome]()
    for names, seconds in (
        (hidden, 2),
        (texts.keys() - hidden, 1),
    ):  # those are ended by their memory, not by the clock
        these = {name: text for name, text in texts.items() if name in names}
        outcomes |= ended(these, Limits(seconds=seconds, memory_bytes=300 << 20)) if these else {}
    passed = {name: outcome for name, outcome in outcomes.items() if outcome.passed}
    assert not passed
    assert time.monotonic() - begun < 30 + 20 * len(texts), "each ends soon after its seconds"
    assert psutil.Process().memory_info().rss - before < 128 << 20
    assert {name: outcomes[name].reason for name in hidden} == dict.fromkeys(hidden, "out of memory")


def test_benign_programs_pass() -> None:
    outcomes = ended({name: f"{text}\n{CHECK}" for name, text in BENIGN.items()}, Limits(seconds=60))
    assert not {name: outcome for name, outcome in outcomes.items() if not outcome.passed}


def test_a_forgery_that_is_not_defended_is_known() -> None:
    """An answer that says it equals everything; SECURITY.md names it."""
    forged = "class Any(int):\n  def __eq__(self, other): return True\ndef add_one(x): return Any()\n"
    assert sandbox.run(forged + CHECK).passed
    text = (Path(__file__).parents[3] / "SECURITY.md").read_text("utf-8")
    assert "`__eq__`" in text
