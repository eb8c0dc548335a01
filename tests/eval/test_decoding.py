"""Writing in batches: a row says what it says alone, stops for itself, and is sampled as the model's softmax says."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SENTENCES
from tests.family_runs import Directories, adapted, adapter_for, load_family
from tests.spelled_model import ABC, IDS, chain, spelling
from tests.tiny_models import FAMILIES
from zofo.api.generate import generate
from zofo.data import Decoding
from zofo.eval.decoding import Request, decode, detokenize, prompt_ids, takes_padding
from zofo.zo.keys import derive

PAD = 2
PROMPTS = ["a warm and funny film that I would gladly see again", "the plot", "a", "one two three", "hello the dog is"]
GREEDY = Decoding(max_new_tokens=7)
SAMPLED = Decoding(max_new_tokens=7, temperature=0.9, top_p=0.95)
ADAPTERS = ("lora", "ia3", "prefix", "prompt", "dept")
FITS = [(family, name) for family in FAMILIES for name in ADAPTERS if adapter_for(family, name) is not None]


def lively(directory: Path) -> Any:
    """Layers that outweigh the embedding: else a small random model says its last word again."""
    model = load_family(directory)
    for name, param in model.named_parameters():
        if param.ndim > 1 and not any(part in name for part in ("embed_tokens", "wte", "backbone.embed", "A_log")):
            param.mul_(4)
    return model


def requests(tokenizer: Any, room: int = 7) -> list[Request]:
    return [Request(prompt_ids(tokenizer, text, "x"), room, derive(3, "t", i)) for i, text in enumerate(PROMPTS)]


def alone(model: Any, tokenizer: Any, all_requests: Sequence[Request], decoding: Decoding) -> list[str]:
    return [decode(model, tokenizer, [request], decoding, PAD)[0] for request in all_requests]


@torch.no_grad()
def likeliest(model: Any, tokenizer: Any, ids: Sequence[int], new: int, end: int) -> str:
    """What each largest logit of a forward over the whole text says, without a cache."""
    text = list(ids)
    while len(text) < len(ids) + new and end not in text[len(ids) :]:
        text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return detokenize(tokenizer, text)[len(detokenize(tokenizer, ids)) :]


def watched(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, ids and what followed them) of each call of the model's `generate`."""
    calls, original = [], model.generate

    def spy(**options: Any) -> torch.Tensor:
        out = original(**options)
        if not options["generation_config"].return_dict_in_generate:  # as when a way to write is tried
            calls.append((options["input_ids"], out))
        return out

    monkeypatch.setattr(model, "generate", spy)
    return calls


# ------------------------------------------------------------------------------------------------ a batch and its rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_every_family(family: str, family_dir: Directories, tiny_tokenizer: Any, monkeypatch: Any) -> None:
    model, all_requests = lively(family_dir(family)), requests(tiny_tokenizer)
    assert takes_padding(model) == (family != "mamba")
    calls = watched(model, monkeypatch)
    texts = decode(model, tiny_tokenizer, all_requests, GREEDY, PAD)
    lengths = {len(r.ids) for r in all_requests}
    assert len(calls) == (len(lengths) if family == "mamba" else 1), "rows of a recurrent model are of one length"
    end = model.generation_config.eos_token_id
    assert texts == [likeliest(model, tiny_tokenizer, r.ids, 7, end) for r in all_requests]
    assert len(set(texts)) > 2
    sampled = decode(model, tiny_tokenizer, all_requests, SAMPLED, PAD, batch_size=3)
    assert sampled == alone(model, tiny_tokenizer, all_requests, SAMPLED)
    assert sampled != texts


# Every adapter on one family in every run of the suite; the others with `make test-slow`
@pytest.mark.parametrize(
    ("family", "name"),
    [
        pair if pair[0] == FAMILIES[0] or pair[1] == "lora" else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in FITS
    ],
)
def test_rows_of_every_adapter(family: str, name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """The model that writes inside a run, and the one that is deployed, say what the training's forwards compute."""
    model, all_requests = lively(family_dir(family)), requests(tiny_tokenizer, 5)
    settings = {k: v for k, v in (adapter_for(family, name) or {}).items() if k != "name"}
    adapters = adapted(name, model, tiny_tokenizer, **settings)
    end = model.generation_config.eos_token_id
    want = [likeliest(adapters.model, tiny_tokenizer, r.ids, 5, end) for r in all_requests]
    assert decode(adapters.model, tiny_tokenizer, all_requests, GREEDY, PAD) == want
    sampled = decode(adapters.model, tiny_tokenizer, all_requests, SAMPLED, PAD)
    deployed = adapters.deployable("p")
    slides = name == "prefix" and family in ("mistral", "gemma2")  # padding would part a row from its prefix
    assert takes_padding(deployed) == (family != "mamba" and not slides)
    assert decode(deployed, tiny_tokenizer, all_requests, GREEDY, PAD, batch_size=3) == want
    assert alone(deployed, tiny_tokenizer, all_requests, SAMPLED) == sampled
    plain = lively(family_dir(family))
    assert want != [likeliest(plain, tiny_tokenizer, r.ids, 5, end) for r in all_requests], "the adapter matters"


@pytest.mark.parametrize("name", ["lora", "prompt", "dept"])
def test_the_writer_follows_the_active_adapter(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    adapters, all_requests = adapted(name, lively(family_dir("llama")), tiny_tokenizer), requests(tiny_tokenizer)
    before = decode(adapters.model, tiny_tokenizer, all_requests, GREEDY, PAD)
    with adapters.active("s"):
        texts = decode(adapters.model, tiny_tokenizer, all_requests, GREEDY, PAD)
        assert texts == [likeliest(adapters.model, tiny_tokenizer, r.ids, 7, 1) for r in all_requests]
    assert texts != before
    assert decode(adapters.model, tiny_tokenizer, all_requests, GREEDY, PAD) == before


@pytest.mark.parametrize("name", ["prefix", "prompt", "dept"])
def test_soft_rows_share_a_batch_whatever_their_lengths(
    name: str, family_dir: Directories, tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    """Each row says what it says alone, as a trained adapter at other positions than the start's would not."""
    writer = adapted(name, lively(family_dir("llama")), tiny_tokenizer).model
    all_requests = [Request([0, 70 + i, *range(80, 80 + 3 * (i % 4))], 6, i) for i in range(8)]
    each = alone(writer, tiny_tokenizer, all_requests, SAMPLED)
    calls = watched(writer, monkeypatch)
    assert decode(writer, tiny_tokenizer, all_requests, SAMPLED, PAD) == each
    ((ids, _),) = calls
    assert ids.shape == (8, 11)
    assert len(set(each)) > 4


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_where_distances_in_the_row_count_a_prefix_is_not_parted_from_it(name: str, tiny_tokenizer: Any) -> None:
    """ALiBi (Press et al. 2022) as MPT has it: what is farther back in the row weighs less, padding counted."""
    from transformers import MptConfig, MptForCausalLM

    settings = MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=len(tiny_tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = MptForCausalLM(settings).eval().requires_grad_(False)
    for param in model.transformer.blocks.parameters():
        param.mul_(8)
    writer = adapted(name, model, tiny_tokenizer).model
    assert takes_padding(model)
    assert takes_padding(writer) == (name == "prompt")
    texts = decode(writer, tiny_tokenizer, requests(tiny_tokenizer), GREEDY, PAD)
    assert texts == [likeliest(writer, tiny_tokenizer, r.ids, 7, 1) for r in requests(tiny_tokenizer)]


def test_a_trained_model(stories_dir: Path) -> None:
    prompts = ["Once upon a time", "Lily had a red ball and a big dog named Max. One day", "The", "Tom said:"]
    for temperature, top_p in ((0.0, 1.0), (1.0, 0.9)):
        settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "top_p": top_p}
        texts = generate(stories_dir, prompts, batch_size=4, **settings)
        assert texts == generate(stories_dir, prompts, **settings)
        assert len(set(texts)) == 4
    assert generate(stories_dir, prompts[:1], max_new_tokens=3)[0].startswith(", there was")


def test_the_first_space_that_a_tokenizer_drops(family_dir: Directories) -> None:
    """A BPE with metaspaces, as SentencePiece's: it decodes a text without its first space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False)
    inner.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert detokenize(tokenizer, tokenizer("dog")["input_ids"]) == "dog"
    model, all_requests = lively(family_dir("llama")), requests(tokenizer)
    assert decode(model, tokenizer, all_requests, SAMPLED, PAD) == alone(model, tokenizer, all_requests, SAMPLED)
    assert decode(model, tokenizer, all_requests, GREEDY, PAD) == [
        likeliest(model, tokenizer, r.ids, 7, 1) for r in all_requests
    ]
    many = [Request(all_requests[1].ids, 2, key) for key in range(40)]
    texts = decode(model, tokenizer, many, Decoding(2, temperature=2.0), PAD, batch_size=40)
    assert any(text.startswith(" ") for text in texts)


# --------------------------------------------------------------------------------------------- a model known by heart


def spelled(model: Any, texts: Sequence[str], decoding: Decoding, rooms: Sequence[int] = (), **options: Any) -> Any:
    tokenizer = spelling()
    all_requests = [
        Request([IDS[c] for c in text], room, i) for i, (text, room) in enumerate(zip(texts, rooms or [99] * 99))
    ]
    return decode(model, tokenizer, all_requests, decoding, PAD, **options)


def test_each_row_ends_where_its_own_end_is() -> None:
    model, starts = chain(ABC), ["a", "e", "h", "bg", "ccd"]
    assert spelled(model, starts, Decoding(20)) == ["bcdefgh", "fgh", "", "h", "efgh"]
    assert spelled(model, starts, Decoding(3)) == ["bcd", "fgh", "", "h", "efg"]
    assert spelled(model, starts, Decoding(20, stop=("de",))) == ["bc", "fgh", "", "h", "efgh"], "of two tokens"
    assert spelled(model, starts, Decoding(20, stop=("gh", "d"))) == ["bc", "f", "", "h", "ef"]
    assert spelled(model, ["a", "c"], Decoding(20, stop=("b",))) == ["", "defgh"]
    assert spelled(model, ["a"], Decoding(20, stop=("c", "bc"))) == [""], (
        "of two that end together the one that began first"
    )
    model.generation_config.eos_token_id = [1, IDS["g"]]
    assert spelled(model, ["a", "e", "g"], Decoding(20)) == ["bcdef", "f", "h"]


def test_a_row_that_stopped_is_padded_and_all_that_stopped_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(ABC)
    calls = watched(model, monkeypatch)
    spelled(model, ["a", "h", "f"], Decoding(20, stop=("e",)))
    ((_, out),) = calls
    assert out[:, 1:].tolist() == [[4, 5, 6, 7], [1, 2, 2, 2], [9, 10, 1, 2]]


def test_without_an_end_token_a_stop_still_ends_a_row() -> None:
    """A ring, which never ends. What a row that stopped is given after that is no part of its text."""
    model = chain({**ABC, "h": {"a": 1.0}})
    model.generation_config.eos_token_id = None
    texts = ["a", "f"]
    assert spelled(model, texts, Decoding(12)) == ["bcdefghabcde"[:12], "ghabcdefghab"]
    assert spelled(model, texts, Decoding(12, stop=("h",))) == ["bcdefg", "g"]
    overlapping = Decoding(12, stop=("h", "ghab"))  # a row that goes on would be cut before "ghab"
    assert spelled(model, texts, overlapping) == ["bcdefg", "g"]


@pytest.mark.parametrize("stop", ["zz", "abcdefgh" * 5 + "b", "h" + "abcdefgh" * 4 + "a"])
def test_stops_are_looked_for_in_the_last_tokens(stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that never come and one of 34 letters that does; what is decoded grows with the tokens, not their square."""
    model, tokenizer = chain({**ABC, "h": {"a": 1.0}}), spelling()
    model.generation_config.eos_token_id = None
    decoded, decode_all = [], tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **how: decoded.append(len(ids)) or decode_all(ids, **how))
    (text,) = decode(model, tokenizer, [Request([IDS["a"]], 200)], Decoding(200, stop=(stop,)), PAD)
    endless = "bcdefgha" * 25
    assert text == endless[: endless.find(stop) if stop in endless else None]
    assert sum(decoded) < 200 * 4 * len(stop) + 200 * 50


def test_a_chat_and_a_plain_text_in_one_batch_end_each_in_its_own_way() -> None:
    """The template ends a turn with letters, which a plain text may write; with a sign of its own it ends both."""
    model, tokenizer = chain({**ABC, "h": {"a": 1.0}}), spelling()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + 'gh' }}{% endfor %}"
    rows = [Request([IDS["a"]], 12, 0, chat) for chat in (True, False, True)]
    assert decode(model, tokenizer, rows, Decoding(12), PAD) == ["bcdef", "bcdefghabcde", "bcdef"]
    assert decode(model, tokenizer, rows, Decoding(12, stop=("e",)), PAD) == ["bcd"] * 3
    tokenizer.add_special_tokens({"additional_special_tokens": ["g"]})
    assert decode(model, tokenizer, rows, Decoding(12), PAD) == ["bcdef"] * 3


def test_rows_near_the_models_limit() -> None:
    model = chain({**ABC, "h": {"a": 1.0}})
    texts, rooms = ["a" * 30, "a", "a" * 32, "ab", "a" * 27], [3, 31, 1, 30, 6]
    want = ["bcd", "bcdefghab", "b", "cdefghabc", "bcdefg"]
    for size in (1, 2, 32):
        assert spelled(model, texts, Decoding(9), rooms, batch_size=size) == want


def test_each_text_is_told_once_the_longest_first() -> None:
    seen: list[tuple[int, str]] = []
    texts = spelled(chain(ABC), ["a", "gggg", "ee"], Decoding(3), batch_size=1, done=lambda *both: seen.append(both))
    assert seen == [(1, "h"), (2, "fgh"), (0, "bcd")]
    assert texts == ["bcd", "h", "fgh"]


# ---------------------------------------------------------------------------------------------------------- sampling

CHANCES = {"a": {"b": 0.5, "c": 0.3, "d": 0.15, "e": 0.05}}
CHANCES |= {letter: {"b": 0.25, "c": 0.7, "e": 0.05} for letter in "bcde"}
N = 2000


def near(counts: Counter[str], chances: dict[str, float]) -> None:
    """Within four standard deviations; what has no chance does not occur."""
    assert set(counts) <= set(chances)
    for text, chance in chances.items():
        assert abs(counts[text] - N * chance) <= 4 * (N * chance * (1 - chance)) ** 0.5, text


def drawn(temperature: float, top_p: float = 1.0, new: int = 2) -> Counter[str]:
    all_requests = [Request([IDS["a"]], new, derive(1, "draw", i)) for i in range(N)]
    return Counter(decode(chain(CHANCES), spelling(), all_requests, Decoding(new, (), temperature, top_p), PAD, N))


def test_texts_come_as_often_as_their_probabilities_say() -> None:
    """Two letters: that the second one's draw is not the first one's again shows in the pairs."""
    after = CHANCES["b"]
    near(drawn(1.0), {x + y: p * q for x, p in CHANCES["a"].items() for y, q in after.items()})
    total = sum(p**2 for p in CHANCES["a"].values())
    near(drawn(0.5, new=1), {x: p**2 / total for x, p in CHANCES["a"].items()})
    near(drawn(1.0, 0.7, 1), {"b": 0.625, "c": 0.375})  # 0.5 is too little, 0.8 is enough
    near(drawn(1.0, 0.4, 1), {"b": 1.0})
    assert drawn(0.0) == {"bc": N}


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()

    model, before = chain(CHANCES), state()
    all_requests = [Request([IDS["a"]], 2, i) for i in range(9)]
    texts = decode(model, spelling(), all_requests, Decoding(2, temperature=1.0), PAD)
    assert state()[:2] == before[:2]
    assert torch.equal(state()[2], before[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        assert decode(model, spelling(), all_requests, Decoding(2, temperature=1.0), PAD) == texts
