"""What the commands of the pages find when they run: small models and rows under the names that the pages use.

Everything is real: a Llama of two layers with a tokenizer, rows in each task's columns, runs that train. Only their
size and their source differ: `HuggingFaceTB/SmolLM2-135M` is a directory here, and the hub's rows are made here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import CHAT_TEMPLATE, ROOT, llama_config, make_tokenizer, save_tiny, sentiment_rows, write_rows
from tests.small_setting import kinds, mood
from tests.task_files import spec_of

MODELS = (
    ".cache/quickstart/smollm2-135m-instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-135M",
    "gpt2-large",
    "MODEL",
    "MODEL_DIR",
)
CLASSES = ["trec", "rotten_tomatoes", "glue-cola", "sms_spam"], ["ag_news", "hate_speech18", "emo", "poem_sentiment"]

EXTRACTS = (
    ["glue_cola", "glue_qnli", "rotten_tomatoes", "trec", "cr", "ethos", "sst5", "subj"],
    ["ag_news", "hate_speech18", "medical_questions_pairs"],
)


def make_model(folder: Path) -> Path:
    """A Llama of two layers that takes 512 tokens, with a chat template."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 512
    config = llama_config(tokenizer, tied=True)
    config.max_position_embeddings = 512
    return save_tiny(folder, config, tokenizer)


def sst2(n: int) -> list[dict[str, Any]]:
    rows = sentiment_rows(n)
    return [{"sentence": row["text"], "label": int(row["label"] == "great"), "idx": i} for i, row in enumerate(rows)]


def copa(n: int) -> list[dict[str, Any]]:
    return [
        {
            "premise": f"The dog of house {i} barked.",
            "choice1": f"It saw cat {i}.",
            "choice2": "The tea was warm.",
            "question": ("cause", "effect")[i % 2],
            "label": i % 2,
            "idx": i,
        }
        for i in range(n)
    ]


def siqa(n: int) -> list[dict[str, Any]]:
    """The first row has the same answer twice."""
    return [
        {
            "context": f"Noor carried bag {i} up the stairs.",
            "question": "How would you describe Noor?",
            "answerA": "helpful",
            "answerB": "helpful" if not i else f"hungry {i}",
            "answerC": "forgetful",
            "label": str(1 + i % 3),
        }
        for i in range(n)
    ]


def squad(n: int) -> list[dict[str, Any]]:
    """Every second context is over 1000 characters."""
    return [
        {
            "id": str(i),
            "title": f"House_{i}",
            "context": f"House {i} was built by Kuhn. " + "It stands still. " * (60 if i % 2 else 1),
            "question": f"Who built house {i}?",
            "answers": {"text": ["Kuhn"], "answer_start": [22]},
        }
        for i in range(n)
    ]


def of_task(task: str, n: int) -> list[dict[str, Any]]:
    """The task file's own rows, each a little different: for tasks that no function here makes rows of."""
    spec = spec_of(task)
    first = next(name for name in spec.columns if isinstance(spec.demonstrations[0][name], str))
    rows = [spec.demonstrations[i % len(spec.demonstrations)] for i in range(n)]
    return [{**row, first: f"{row[first].rstrip('. ')}, {i}."} for i, row in enumerate(rows)]


HUB: dict[tuple[str, str | None], Callable[[int], list[dict[str, Any]]]] = {
    ("nyu-mll/glue", "sst2"): sst2,
    ("aps/super_glue", "copa"): copa,
}
SIZES = {"train": 40, "validation": 12, "test": 12}


def load_dataset(path: str, name: str | None, split: str, revision: str | None) -> list[dict[str, Any]]:
    """In place of the hub's: rows of its columns and splits."""
    return HUB[path, name](SIZES[split])


def make_world(folder: Path, model: Path) -> Path:
    """folder with models, rows and settings under the pages' names."""
    for name in MODELS:
        shutil.copytree(model, folder / name)
    write_rows(folder / "mine.jsonl", sentiment_rows(40))
    reviews = [{"id": i, "text": r["text"], "label": ("negative", "positive")[r["label"] == "great"]}
               for i, r in enumerate(sentiment_rows(60))]  # fmt: skip
    data = folder / ".cache" / "quickstart" / "movie-reviews"
    for split, rows in (("train", reviews[:40]), ("validation", reviews[40:48]), ("test", reviews[48:])):
        write_rows(data / f"{split}.jsonl", rows)
    for task, make in {"sst2": sst2, "copa": copa, "siqa": siqa, "squad": squad}.items():
        for split, n in SIZES.items():
            write_rows(folder / "data" / task / f"{split}.jsonl", make(n))
    for task in CLASSES[0]:
        write_rows(folder / "DIR" / task / "train.jsonl", mood(task, 24, 5))
    for number, task in enumerate(CLASSES[1]):
        make = (mood, kinds)[number % 2]
        write_rows(folder / "DIR" / task / "train.jsonl", make(task, 24, 7))
        write_rows(folder / "DIR" / task / "test.jsonl", make(task, 8, 9))
    return folder


def add_experiments(folder: Path, again: list[str]) -> None:
    """Copies of experiments, benchmarks and results, without the results `again`, and rows for the plans."""
    for name in ("experiments", "benchmarks", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in again:
        for path in list((folder / "results").glob(pattern)):
            path.unlink()
    for split, n in {"train": 240, "validation": 12, "test": 12}.items():
        write_rows(folder / "SST2_DIR" / f"{split}.jsonl", sst2(n))
        for task in ("boolq", "piqa", "siqa", "winogrande", "rte"):
            write_rows(folder / "DATA_DIR" / task / f"{split}.jsonl", of_task(task, n))
        for data in ("DATA_DIR", "DATA"):
            write_rows(folder / data / "copa" / f"{split}.jsonl", copa(n))
    for number, task in enumerate([*EXTRACTS[0], *EXTRACTS[1]]):
        for split, seed in (("train", 5), ("test", 9)):
            write_rows(folder / "META_DIR" / task / f"{split}.jsonl", (mood, kinds)[number % 2](task, 60, seed))
