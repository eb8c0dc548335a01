"""HumanEval as a task: nothing that a model wrote runs unless asked for, and what runs is counted as pass@k."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_tokenizer, read_rows
from tests.family_runs import save_family
from tests.sandboxed import needs_sandbox
from zofo import evaluate
from zofo.config import registry
from zofo.data import Decoding, TaskData
from zofo.data.files import Record
from zofo.data.spec import load_spec, maker
from zofo.errors import InputError
from zofo.eval import sandbox
from zofo.eval.evaluator import Evaluator

Write = Callable[[str, list[dict[str, Any]]], Path]
SPEC = load_spec(registry.load("tasks", "humaneval"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 512
    return save_family("llama", tmp_path_factory.mktemp("model"), tokenizer, positions=512)


@pytest.fixture
def problems(write_jsonl: Write) -> Path:
    return write_jsonl("test.jsonl", SPEC.demonstrations[:2]).parent


def score(model_dir: Path, problems: Path, **options: Any) -> dict[str, float]:
    return evaluate(model_dir, task="humaneval", data=str(problems), max_new_tokens=8, **options)


def test_without_the_flag_no_program_runs(
    model_dir: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sandbox, "run_all", lambda *args, **kwargs: pytest.fail("a program was run"))
    with caplog.at_level("WARNING", logger="zofo"):
        result = score(model_dir, problems, output=problems / "out.jsonl")
    assert set(result) == {"loss", "n"}
    assert "--run-generated-code" in caplog.text
    rows = read_rows(problems / "out.jsonl")
    assert all(len(row["generated"]) == 1 and "pass_at_1" not in row for row in rows)


@needs_sandbox
def test_with_the_flag_the_programs_of_a_random_model_run_and_fail(model_dir: Path, problems: Path) -> None:
    assert score(model_dir, problems, run_generated_code=True)["pass_at_1"] == 0


def test_where_nothing_can_be_run_safely_it_says_so_before_the_texts_are_written(
    model_dir: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "no user namespaces here")
    monkeypatch.setattr(Evaluator, "decode", lambda *args: pytest.fail("a text was written"))
    with pytest.raises(InputError, match=r"task\.run_generated_code: no user namespaces here"):
        score(model_dir, problems, run_generated_code=True)


def test_several_greedy_texts_are_refused(model_dir: Path, problems: Path) -> None:
    with pytest.raises(InputError, match=r"task\.samples: 10 greedy texts .* give task\.temperature"):
        score(model_dir, problems, samples=10)


@needs_sandbox
def test_pass_at_k_of_known_programs() -> None:
    """Ten texts each: all right, three right, none. pass@1 is their share; pass@10 whether any is."""
    examples = [maker(SPEC, "default")(Record(str(i), "x", row)) for i, row in enumerate(SPEC.demonstrations[:3])]
    right, wrong = [e.answers[0] for e in examples], "    return None\n"
    texts = [[right[0]] * 10, [right[1]] * 3 + [wrong] * 7, [wrong] * 10]
    data = TaskData(
        "humaneval", 1, "lm", ("pass_at_k",), [], [], examples, (), "generation", Decoding(samples=10, temperature=1.0)
    )
    unused: Any = None
    evaluator = Evaluator(unused, data, unused, None, 8, 0, run_code=True)
    metrics = evaluator.measure(texts, examples)
    assert [m["pass_at_1"] for m in metrics] == pytest.approx([1.0, 0.3, 0.0])
    assert [m["pass_at_10"] for m in metrics] == [1.0, 1.0, 0.0]
    assert data.metric == "pass_at_1"
