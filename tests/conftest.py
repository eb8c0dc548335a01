"""Fixtures for all tests: tiny models and tokenizers made on the spot, and the shared ones where they are present."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub.utils._http as hub_http
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from tests.family_runs import Directories

# The same examples in every run: a change is judged by what it changes. HYPOTHESIS_PROFILE=random looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
os.fsync = lambda handle: None  # no test cuts the power, and a short run waits for the disk a third of its time
hub_http.__dict__["time"] = SimpleNamespace(
    **{**vars(time), "sleep": lambda s: None}
)  # no test waits for a hub to come back
torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives, and much more beside other work

FROZEN = [0]  # how many modules were there then


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """A million objects of libraries and collected tests live to the end, and each full collection of garbage, which
    statsmodels asks for in every call, would go through them: half a second to a second. Frozen, they are left out."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        FROZEN[0] = len(sys.modules)


def pytest_runtest_logfinish() -> None:
    """So are those of what a test was the first to import."""
    if len(sys.modules) > FROZEN[0] + 50:
        gc.collect()  # what is garbage by now would stay
        gc.freeze()
        FROZEN[0] = len(sys.modules)


ROOT = Path(__file__).resolve().parents[1]  # of the checkout
SHARED = next((path for path in (ROOT / "shared", ROOT.parent / "shared") if path.is_dir()), ROOT.parent / "shared")

SENTENCES = [
    "a warm and funny film that I would gladly see again. It was great",
    "the plot is dull, the jokes are stale and the end never comes. It was terrible",
    "the dog is doing what a dog does: it digs, it goes, it is good",
    "Question: does the word mean the same in these two sentences? Yes, No, Maybe",
    "one two three four five six seven eight nine ten",
    "user says hello and the assistant says good morning",
]
POSITIVE = ["great", "warm", "funny", "moving", "clever", "brilliant"]
NEGATIVE = ["dull", "stale", "boring", "awful", "clumsy", "terrible"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def make_tokenizer(bos: bool = True, vocab_size: int = 400) -> Any:
    """A byte-level BPE with <s>, </s>, <pad>, trained on SENTENCES; with `bos`, <s> stands before each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 4, trainer)
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )


@pytest.fixture(scope="session")
def tokenizer_factory() -> Callable[..., Any]:
    """make_tokenizer, for a tokenizer to change."""
    return make_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Do not change it: all tests of a session share it."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """The same with a chat template, which writes <s> itself."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny(folder: Path, config: Any, tokenizer: Any) -> Path:
    """A random model of this config, the same every time, and the tokenizer, as a plain transformers directory."""
    from transformers import AutoModelForCausalLM

    from tests import trials_once

    trials_once.install()  # many short runs of such a model follow
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_config(tokenizer: Any, tied: bool) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A 2-layer Llama of width 32, head tied to the embedding, without biases. Read only."""
    return save_tiny(tmp_path_factory.mktemp("tiny-llama"), llama_config(tiny_tokenizer, tied=True), tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_llama_untied_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """The same with a head of its own. Read only."""
    return save_tiny(tmp_path_factory.mktemp("tiny-untied"), llama_config(tiny_tokenizer, tied=False), tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_opt_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A 2-layer OPT of width 32: biases everywhere, learned positions, tied head. Read only."""
    from transformers import OPTConfig

    config = OPTConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        dropout=0.0,
        init_std=0.1,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    return save_tiny(tmp_path_factory.mktemp("tiny-opt"), config, tiny_tokenizer)


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """family_dir(family) -> a directory with a tiny model of it and `tiny_tokenizer`. Read only."""
    from tests.family_runs import Directories

    return Directories(tmp_path_factory.mktemp("families"))


def sentiment_rows(n: int = 60) -> list[dict[str, str]]:
    """`n` different sentences, good and bad in turn."""
    rows = []
    for i in range(n):
        words, label = (POSITIVE, "great") if i % 2 else (NEGATIVE, "terrible")
        one, two = words[i // 2 % 6], words[i // 12 % 6]
        rows.append({"text": f"film {i}: a {one} and {two} story" + ", truly" * (i % 5), "label": label})
    return rows


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """JSON lines, in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """write_jsonl(name, rows) -> the path of the file it wrote into tmp_path."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        return write_rows(tmp_path / name, rows)

    return write


@pytest.fixture
def sentiment_file(write_jsonl: Callable[[str, list[dict[str, Any]]], Path]) -> Path:
    """60 rows with text and label ("great", "terrible")."""
    return write_jsonl("sentiment.jsonl", sentiment_rows())


SST2 = [{"sentence": f"film {i} is {('dull', 'warm')[i % 2]} ", "label": i % 2} for i in range(12)]


@pytest.fixture
def sst2_dir(write_jsonl: Callable[[str, list[dict[str, Any]]], Path]) -> Path:
    """DIR of DIR/sst2/{train,test}.jsonl, with SST2 and its first 4 rows."""
    write_jsonl("data/sst2/train.jsonl", SST2)
    return write_jsonl("data/sst2/test.jsonl", SST2[:4]).parents[1]


@pytest.fixture(scope="session")
def stories_dir() -> Path:
    """The trained 260,032-parameter Llama of the shared folder."""
    path = SHARED / "models" / "stories260K"
    if not path.is_dir():
        pytest.skip(f"needs the shared model {path.name}, which is not here")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared folder of dataset extracts."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("needs the shared data folder, which is not here")
    return path


@pytest.fixture(scope="session")
def small_setting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the small setting (tests/small_setting.py), with its data beside it. Read only."""
    from tests.small_setting import make_setting

    return make_setting(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def run_of(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, small_setting: Path
) -> Callable[[str], Path]:
    """run_of(name) -> the directory of a short run on the small setting, trained on first need. Read only."""
    from tests.small_setting import train

    runs: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in runs:
            runs[name] = train(tiny_model_dir, small_setting, tmp_path_factory.mktemp("runs") / name, name)
        return runs[name]

    return get
