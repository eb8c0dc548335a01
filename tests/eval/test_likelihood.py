"""Scores of options against plain forwards over each whole text, written here; reports and the lines of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import CHAT_TEMPLATE, SENTENCES, make_tokenizer, read_rows
from tests.family_runs import save_family
from tests.tiny_models import cpu_loss
from zofo import evaluate, finetune
from zofo.config import registry
from zofo.data import Example
from zofo.data.metrics.text import exact_match, token_f1
from zofo.data.spec import load_spec
from zofo.data.tokenization import tokenize_all
from zofo.eval.likelihood import evaluate as score
from zofo.models.tree_probe import share_prompts

Write = Callable[[str, list[dict[str, Any]]], Path]
SCORINGS = ("mean", "sum", "characters", "calibrated")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with room for the tasks' own demonstrations, and a chat template."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length, tokenizer.chat_template = 1024, CHAT_TEMPLATE
    return save_family("llama", tmp_path_factory.mktemp("model"), tokenizer, positions=1024, initializer_range=0.3)


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)


def demonstrations(name: str) -> list[dict[str, Any]]:
    return load_spec(registry.load("tasks", name)).demonstrations


@torch.no_grad()
def tokens_of(model: Any, ids: Sequence[int], first: int) -> list[float]:
    """log p of ids[first:], each given all before it, from one forward in float64."""
    logp = torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), -1)
    return [float(logp[i - 1, ids[i]]) for i in range(first, len(ids))]


def answer_tokens(plain: tuple[Any, Any], prompt: str, answer: str, ends: bool = False) -> list[float]:
    """log p of the answer's tokens; ends: the end of the text is one of them."""
    model, tokenizer = plain
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
    assert whole[: len(before)] == before, "no token of these texts crosses the border"
    return tokens_of(model, [*whole, *[tokenizer.eos_token_id] * ends], len(before))


def by_hand(plain: tuple[Any, Any], scoring: str, prompt: str, answer: str, null: str | None = None) -> float:
    logprobs = answer_tokens(plain, prompt, answer)
    if scoring == "calibrated":
        return sum(logprobs) - sum(answer_tokens(plain, null or "", answer))
    return sum(logprobs) / {"mean": len(logprobs), "sum": 1, "characters": len(answer.strip())}[scoring]


# Of the first demonstration under each template, what is left without its input
NULLS = {
    ("copa", "default"): "because",
    ("copa", "plain"): None,
    ("record", "default"): "-",
    ("sst2", "default"): "It was",
}


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("name", "template"), NULLS)
def test_scores_of_whole_examples(
    name: str, template: str, scoring: str, plain: Any, model_dir: Path, write_jsonl: Write, tmp_path: Path
) -> None:
    """Batched, with shared prompts, and with the prompt without input of each row's own (copa: because, so)."""
    rows = demonstrations(name)
    rows += [{**rows[0], "question": "effect"}] if name == "copa" else []  # with the same answers, after "so"
    write_jsonl("test.jsonl", rows)
    result = evaluate(
        model_dir, task=name, data=str(tmp_path), template=template, scoring=scoring, output=tmp_path / "out"
    )
    predictions = read_rows(tmp_path / "out" / "predictions.jsonl")
    assert len(predictions) == len(rows)
    for row in predictions:
        null = NULLS[name, template]
        null = "so" if null == "because" and row["prompt"].endswith(" so") else null
        want = [by_hand(plain, scoring, row["prompt"], answer, null) for answer in row["answers"]]
        size = 1 if scoring in ("mean", "characters") else 30  # a sum of so many tokens, in float32
        assert row["scores"] == pytest.approx(want, abs=1e-5 * size, rel=1e-5)
        assert row["predicted"] == max(range(len(want)), key=want.__getitem__)
        assert row["correct"] == (row["predicted"] in row["gold"])
    assert result["accuracy"] == sum(row["correct"] for row in predictions) / len(predictions)
    two = (name, template) == ("copa", "default")
    assert {row["prompt"].endswith(" so") for row in predictions} == ({True, False} if two else {False})


def test_scorings_differ(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("test.jsonl", demonstrations("copa"))
    scores = []
    for scoring in SCORINGS:
        overrides = [f"task.scoring={scoring}"]
        evaluate(model_dir, task="copa", data=str(tmp_path), overrides=overrides, output=tmp_path / f"{scoring}.jsonl")
        scores.append([tuple(row["scores"]) for row in read_rows(tmp_path / f"{scoring}.jsonl")])
    assert len({str(each) for each in scores}) == 4
    losses = {evaluate(model_dir, task="copa", data=str(tmp_path), scoring=scoring)["loss"] for scoring in SCORINGS}
    assert len(losses) == 1, "how options are scored is no part of the loss"


def test_calibrated_scores_in_a_chat(plain: Any, model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    """The prompt without input is a user's turn as well."""
    write_jsonl("test.jsonl", demonstrations("sst2")[:2])
    evaluate(
        model_dir,
        task="sst2",
        data=str(tmp_path),
        apply_chat_template=True,
        scoring="calibrated",
        output=tmp_path / "out.jsonl",
    )
    model, tokenizer = plain

    def log_p(prompt: str, answer: str) -> float:
        before, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + answer))
        border = next(i for i, (a, b) in enumerate(zip(before, whole)) if a != b)  # "assistant: " ends in a space
        return sum(tokens_of(model, whole, border))

    for row in read_rows(tmp_path / "out.jsonl"):
        null = "<s>user: It was</s>\n<s>assistant: "
        want = [log_p(row["prompt"], answer) - log_p(null, answer) for answer in row["answers"]]
        assert row["answers"] == ["terrible", "great"]
        assert row["scores"] == pytest.approx(want, abs=2e-5)


def test_any_of_several_right_answers_counts(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    row = demonstrations("record")[0]
    names = ["Lindholm", "HT", "Agnes Brandt", "Brandt", "Vesk"]
    write_jsonl("test.jsonl", [row])
    evaluate(model_dir, task="record", data=str(tmp_path), output=tmp_path / "out.jsonl")
    chosen = names[read_rows(tmp_path / "out.jsonl")[0]["predicted"]]
    others = [name for name in names if name != chosen]
    answers = [others[0], chosen], others[1:3], [chosen], names
    write_jsonl("test.jsonl", [{**row, "answers": gold} for gold in answers])
    result = evaluate(model_dir, task="record", data=str(tmp_path), output=tmp_path / "out.jsonl")
    right = {tuple(sorted(row["gold"])): row["correct"] for row in read_rows(tmp_path / "out.jsonl")}
    at = {name: names.index(name) for name in names}
    assert right == {
        tuple(sorted((at[others[0]], at[chosen]))): True,
        tuple(sorted(at[name] for name in others[1:3])): False,
        (at[chosen],): True,
        (0, 1, 2, 3, 4): True,
    }
    assert result["accuracy"] == 0.75


# ------------------------------------------------------------------------------------------- where tokens merge


def metaspace(kind: str) -> Any:
    """As SentencePiece's: a space is a mark at the start of a word, and a text begins with one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials: dict[str, Any] = {"special_tokens": ["<s>", "</s>", "<pad>", "<unk>"], "show_progress": False}
    if kind == "bpe":
        inner, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(vocab_size=300, **specials)
    else:
        inner = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **specials)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.train_from_iterator(SENTENCES * 4, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


BORDERS = [
    ("It was", (" great", " terrible")),
    ("It was ", ("great", "terrible")),
    ("a do", ("g", "or")),
    ("the film is dull.\n", ("Yes", "No")),
    ("", ("dog", "it goes")),
]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "bytes"])
def test_a_token_across_the_border_is_the_answers(kind: str, model_dir: Path) -> None:
    """An option's score is log p of the whole text less that of the tokens which end before the answer begins."""
    tokenizer = make_tokenizer() if kind == "bytes" else metaspace(kind)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    loss = cpu_loss(model, "options")
    examples = [Example(str(i), prompt, answers, (0,)) for i, (prompt, answers) in enumerate(BORDERS)]
    encoded = tokenize_all(tokenizer, examples, None, "options", False, True)
    evaluation = score(loss, share_prompts(loss.scorer, {"x": encoded}, None)["x"], "accuracy", 3, scoring="sum")
    merged = 0
    for e, p in zip(examples, evaluation.predictions):
        for answer, mine in zip(e.answers, p.scores):
            ids = tokenizer(e.prompt + answer)["input_ids"]
            alone = tokenizer(e.prompt)["input_ids"]
            start = max(n for n in range(1, len(ids)) if before(tokenizer, ids[:n], e.prompt))
            merged += start < len(alone) or ids[: len(alone)] != alone
            assert mine == pytest.approx(sum(tokens_of(model, ids, start)), abs=2e-5)
    assert merged >= 2


def before(tokenizer: Any, ids: Sequence[int], prompt: str) -> bool:
    """Whether these tokens spell a start of the prompt: marks for spaces, one of them added in front."""
    text = "".join(tokenizer.convert_ids_to_tokens(ids[1:]))
    for mark, spelt in {"▁": " ", "Ġ": " ", "Ċ": "\n", "<unk>": "\n"}.items():
        text = text.replace(mark, spelt)
    return prompt.startswith(text) or f" {prompt}".startswith(text)


def test_scores_with_a_trained_sentencepiece_model(stories_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    starts = ("", "Hello. ", "Tom said: ", "The end. ")
    asked = {
        "Once upon a time there was a little girl named": ["Lily", "the", "dog"],
        "Once upon a time, there was a little": ["girl", "was", "upon a time"],
    }
    rows = [{"text": start + text, "label": c[0], "choices": c} for start in starts for text, c in asked.items()]
    path = write_jsonl("rows.jsonl", rows)
    trained = AutoModelForCausalLM.from_pretrained(stories_dir).eval(), AutoTokenizer.from_pretrained(stories_dir)
    for scoring in SCORINGS:
        evaluate(stories_dir, task=str(path), split="train", scoring=scoring, output=tmp_path / "out.jsonl")
        predictions = read_rows(tmp_path / "out.jsonl")
        assert len(predictions) == 6
        for row in predictions:
            want = [by_hand(trained, scoring, row["prompt"], a) for a in row["answers"]]
            assert row["scores"] == pytest.approx(want, abs=2e-5, rel=1e-5)
            assert row["correct"] or scoring == "calibrated"


# ------------------------------------------------------------------------------------------------------ reports, files


def test_the_report_of_a_classification(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    words = [f"{one} and {two}" for one in ("dull", "warm", "long", "funny") for two in ("old", "new", "sad")]
    rows = [{"sentence": text, "label": i % 2} for i, text in enumerate(words)]
    write_jsonl("test.jsonl", rows)
    result = evaluate(model_dir, task="sst2", data=str(tmp_path), output=tmp_path / "out")
    predictions = read_rows(tmp_path / "out" / "predictions.jsonl")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    recorded = json.loads((tmp_path / "out" / "results.json").read_text())
    assert recorded == {**recorded, **result}
    confusion = [[sum((r["gold"], r["predicted"]) == ([g], p) for r in predictions) for p in (0, 1)] for g in (0, 1)]
    assert report["labels"] == ["negative", "positive"]
    assert report["confusion"] == confusion
    assert sum(confusion[0]) == sum(confusion[1]) == 6
    assert report["accuracy"] == result["accuracy"] == (confusion[0][0] + confusion[1][1]) / 12
    assert report["classes"]["negative"]["recall"] == confusion[0][0] / 6
    write_jsonl("test.jsonl", demonstrations("copa"))
    evaluate(model_dir, task="copa", data=str(tmp_path), output=tmp_path / "own")
    assert not (tmp_path / "own" / "report.json").exists(), "rows with answers of their own have no classes"


def test_files_of_a_run(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("train.jsonl", demonstrations("sst2") * 2)
    write_jsonl("test.jsonl", demonstrations("sst2")[:3])
    overrides = [f"task.data={tmp_path}", "task.scoring=calibrated", "train.max_steps=2", "train.batch_size=2"]
    write_jsonl("validation.jsonl", demonstrations("sst2"))
    run = finetune(str(model_dir), "sst2", "fo-peft", output_dir=tmp_path / "run", overrides=overrides)
    rows = read_rows(tmp_path / "run" / "eval" / "predictions-p.jsonl")
    report = json.loads((tmp_path / "run" / "eval" / "report-p.json").read_text())
    assert report["accuracy"] == pytest.approx(run.test["accuracy"])
    assert sum(map(sum, report["confusion"])) == len(rows) == 3
    again = evaluate(run.path, output=tmp_path / "again")
    assert again == pytest.approx(run.test, rel=1e-5)
    for one, two in zip(rows, read_rows(tmp_path / "again" / "predictions.jsonl")):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)
        assert list(one) == ["id", "prompt", "answers", "gold", "predicted", "prediction", "correct", "scores", "loss"]


def test_lines_of_generated_answers(plain: Any, model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("test.jsonl", demonstrations("squad"))
    overrides = ["task.max_new_tokens=6", "task.samples=2", "task.temperature=1.0"]
    result = evaluate(model_dir, task="squad", data=str(tmp_path), overrides=overrides, output=tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "predictions.jsonl")
    assert not (tmp_path / "out" / "report.json").exists()
    by_question = {row["reference"][0]: row for row in rows}
    assert set(by_question) == {"the brothers Kuhn", "1896"}
    kuhn = by_question["the brothers Kuhn"]
    assert list(kuhn) == [
        "id",
        "prompt",
        "answers",
        "gold",
        "reference",
        "generated",
        "token_f1",
        "exact_match",
        "loss",
    ]
    assert kuhn["reference"] == ["the brothers Kuhn", "brothers Kuhn"]
    for row in rows:
        assert len(set(row["generated"])) == 2
        for name, metric in (("token_f1", token_f1), ("exact_match", exact_match)):
            assert row[name] == sum(metric(text, row["reference"]) for text in row["generated"]) / 2
        losses = [-x for x in answer_tokens(plain, row["prompt"], row["answers"][0], ends=True)]
        assert row["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert result["token_f1"] == sum(row["token_f1"] for row in rows) / 2
    assert result["n"] == 2
