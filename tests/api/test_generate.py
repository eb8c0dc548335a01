"""`generate` against a loop of full forwards written here; sampling by seed; what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CHAT_TEMPLATE, make_tokenizer, save_tiny, sentiment_rows, write_rows
from tests.family_runs import save_family
from tests.tiny_models import config as family_config
from zofo import InputError, finetune, load
from zofo.api.generate import Prompt, generate


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its own settings ask for sampling, a penalty and an early stop, which `generate` is not to follow unasked."""
    folder = save_family("llama", tmp_path_factory.mktemp("model"), positions=64, initializer_range=0.2)
    settings = {
        "do_sample": True,
        "temperature": 3.0,
        "top_k": 3,
        "repetition_penalty": 2.0,
        "max_length": 5,
        "eos_token_id": 1,
        "bos_token_id": 0,
        "pad_token_id": 2,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Callable[[str], Any]:
    """A short Bilevel run for each adapter."""
    root, made = tmp_path_factory.mktemp("runs"), {}
    write_rows(root / "rows.jsonl", sentiment_rows(80))

    def run(adapter: str) -> Any:
        if adapter not in made:
            method = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 5e-2, "lr_theta": 1e-3, "lam": 1.0}
            made[adapter] = finetune(
                str(model_dir),
                str(root / "rows.jsonl"),
                method,
                adapter,
                output_dir=root / adapter,
                max_steps=12,
                batch_size=4,
                eval_steps=12,
                save_steps=12,
            )
        return made[adapter]

    return run


@torch.no_grad()
def likeliest(model: Any, ids: list[int], new: int, eos: int = 1) -> list[int]:
    """The likeliest token each time, from a forward over the whole text without a cache."""
    text = list(ids)
    for _ in range(new):
        row = torch.tensor([text])
        text.append(
            int(model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1].argmax())
        )
        if text[-1] == eos:
            break
    return text


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


PROMPTS = ["a warm and funny film", "the plot", "Question:"]


def test_greedy_is_the_likeliest_token_each_time(model_dir: Path) -> None:
    model, tokenizer = load(model_dir)
    before = torch.get_rng_state()
    completions = generate(model_dir, PROMPTS, max_new_tokens=12)
    assert torch.equal(torch.get_rng_state(), before)
    for prompt, text in zip(PROMPTS, completions):
        assert prompt + text == decoded(tokenizer, likeliest(model, tokenizer(prompt)["input_ids"], 12))
    assert generate(model_dir, PROMPTS, max_new_tokens=12, seed=5) == completions
    assert len(set(completions)) == 3


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "dept", "ia3"])
def test_a_run_and_its_export_write_what_their_models_compute(
    adapter: str, runs: Callable[[str], Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run = runs(adapter)
    model, tokenizer = load(run.path)
    completions = generate(run.path, PROMPTS, max_new_tokens=10)
    for prompt, text in zip(PROMPTS, completions):
        assert prompt + text == decoded(tokenizer, likeliest(model, tokenizer(prompt)["input_ids"], 10))
    assert generate(run.export(tmp_path / "export"), PROMPTS, max_new_tokens=10) == completions
    assert not [w for w in recwarn if "Position ids" in str(w.message)]


def test_which_adapter(runs: Callable[[str], Any], tmp_path: Path) -> None:
    run = runs("lora")
    by_name = {name: generate(run.path, PROMPTS, adapter=name, max_new_tokens=20) for name in ("p", "s", "theta")}
    assert by_name[run.deployed] == generate(run.path, PROMPTS, max_new_tokens=20)
    assert by_name["theta"] != by_name["s"]
    with pytest.raises(InputError, match=r"adapter 'q': this run has"):
        generate(run.path, PROMPTS, adapter="q")
    with pytest.raises(InputError, match="is no run, so it has no adapters to choose from"):
        generate(run.export(tmp_path / "export"), PROMPTS, adapter="p")


def test_sampling_is_keyed_by_seed_and_prompt(model_dir: Path) -> None:
    before = torch.get_rng_state()
    options: dict[str, Any] = {"max_new_tokens": 15, "temperature": 1.0}
    samples = generate(model_dir, ["the plot"] * 3, **options)
    torch.manual_seed(123)
    assert generate(model_dir, ["the plot"] * 3, **options) == samples
    assert len(set(samples)) == 3
    assert generate(model_dir, ["the plot"] * 3, seed=1, **options) != samples
    torch.set_rng_state(before)
    generate(model_dir, ["the plot"], **options)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = generate(model_dir, ["the plot"], max_new_tokens=15)
    assert generate(model_dir, ["the plot"], top_p=1e-6, **options) == greedy
    assert generate(model_dir, ["the plot"], max_new_tokens=15, temperature=1e-4) == greedy


def test_sampled_tokens_have_the_models_probabilities(model_dir: Path) -> None:
    """The first token of 300 samples at temperature 0.5: the likeliest comes as often as the softmax says."""
    model, tokenizer = load(model_dir)
    ids = tokenizer("the plot")["input_ids"]
    with torch.no_grad():
        chances = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1] / 0.5, -1)
    token = int(chances.argmax())
    word = decoded(tokenizer, [*ids, token])[len("the plot") :]
    same = sum(float(c) for i, c in enumerate(chances) if decoded(tokenizer, [*ids, i])[len("the plot") :] == word)
    samples = generate(model_dir, ["the plot"] * 300, max_new_tokens=1, temperature=0.5)
    share, deviation = samples.count(word) / 300, (same * (1 - same) / 300) ** 0.5
    assert 0.05 < same < 0.95
    assert abs(share - same) < 4 * deviation


def test_a_stop_ends_the_text_and_is_no_part_of_it(model_dir: Path) -> None:
    (whole,) = generate(model_dir, ["the plot"], max_new_tokens=30)
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    (short,) = generate(model_dir, ["the plot"], max_new_tokens=30, stop=["never said", middle])
    assert short == whole[: whole.index(middle)]


def test_a_chat_is_the_templates(model_dir: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(InputError, match=r"llama: the model's tokenizer has no chat template"):
        generate(model_dir, ["hello"], chat=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    folder = save_tiny(tmp_path / "chat", family_config("llama", vocab=len(tokenizer)), tokenizer)
    text = "<s>user: hello</s>\n<s>assistant: "
    model, _ = load(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = decoded(tokenizer, likeliest(model, ids, 8))[len(decoded(tokenizer, ids)) :]
    turns = [{"role": "user", "content": "hello"}]
    answered = [*turns, {"role": "assistant", "content": "good morning"}]
    assert generate(folder, ["hello", turns, answered], max_new_tokens=8, chat=True) == [expected] * 3
    assert generate(folder, [turns], max_new_tokens=8) == [expected]
    wrongs: list[Any] = [[], answered[1:], ["hello"], [{"role": "user"}]]
    for wrong in wrongs:
        with pytest.raises(InputError, match=r"^prompt 1: (no turn to answer|expected a list of turns)"):
            generate(folder, [wrong], max_new_tokens=8)


def test_lengths(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """64 positions: a prompt may fill them and have one token of continuation; nothing beyond is asked of the model."""
    tokenizer = make_tokenizer()
    long = "f" * 63
    assert len(tokenizer(long)["input_ids"]) == 64
    with pytest.raises(InputError, match=r"^rows.txt:3: 65 tokens, and the model takes 64; shorten it$"):
        generate(model_dir, ["ok", Prompt("f" * 64, "rows.txt:3")])
    (text,) = generate(model_dir, [long], max_new_tokens=9)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= 1
    assert "prompt 1: room for 1 new tokens, not 9" in caplog.text
    assert generate(model_dir, [""], max_new_tokens=3)[0]  # from <s> alone


def test_completions_come_as_they_are_done(model_dir: Path) -> None:
    seen: list[tuple[int, str]] = []
    completions = generate(model_dir, PROMPTS, max_new_tokens=3, done=lambda i, text: seen.append((i, text)))
    assert seen == list(enumerate(completions))


def test_all_wrong_settings_at_once(model_dir: Path) -> None:
    with pytest.raises(InputError) as caught:
        generate(model_dir, [], max_new_tokens=0, temperature=-1, top_p=0, stop="\n")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "prompts",
        "max_new_tokens",
        "stop",
        "temperature",
        "top_p",
    ]
    with pytest.raises(InputError, match="temperature"):
        generate(model_dir, ["a"], temperature=float("nan"))


def test_a_space_that_a_tokenizer_drops_at_the_start_of_a_text_stays(tmp_path: Path) -> None:
    """As Llama's: a piece's mark is a space, except at the start of what is decoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "▁the": 2, "▁film": 3, "▁is": 4, "▁good": 5}
    inner = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    assert tokenizer.decode([4, 5]) == "is good"
    folder = save_tiny(tmp_path / "model", family_config("llama", vocab=6), tokenizer)
    samples = generate(folder, ["the film"] * 8, max_new_tokens=2, temperature=5.0)
    assert all(text == "" or text.startswith(" ") for text in samples)
    assert any(samples)
