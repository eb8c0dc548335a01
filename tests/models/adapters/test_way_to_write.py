"""A text is what the trained forward says, whatever the libraries make of a cache; where it is not, it is refused."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.family_runs import Directories, adapted, load_family, save_rows, short_run
from zofo import RunError, export, generate, load
from zofo.api.restore import restore
from zofo.data import Decoding
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode, detokenize
from zofo.models import _transformers as asked
from zofo.models._transformers import cache_name, pads_left, right_way, unwrapped, way_to_write
from zofo.models.adapters import _front

FAMILIES = ("llama", "opt", "gpt2", "qwen2")
NEW = 60  # tokens
RIGHT = _front.PrefixFront.write
PROMPTS = [
    f"{start} {i}"
    for i in range(5)
    for start in ("a warm film", "the plot", "one two three four", "Question: does the word mean")
]
VERSIONS = tuple(f"{name} {version(name)}" for name in ("transformers", "peft"))


@torch.no_grad()
def greedily(model: Any, prompts: list[list[int]], new: int, end: int) -> list[list[int]]:
    """The largest logit of a forward over the whole text, token by token; rows of one length together."""
    continuations: dict[int, list[int]] = {}
    for length in {len(ids) for ids in prompts}:
        rows = [i for i, ids in enumerate(prompts) if len(ids) == length]
        text = torch.tensor([prompts[i] for i in rows])
        for _ in range(new):
            logits = model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).logits
            text = torch.cat([text, logits[:, -1].argmax(-1)[:, None]], dim=1)
        for row, written in zip(rows, text[:, length:].tolist()):
            continuations[row] = written[: written.index(end)] if end in written else written
    return [continuations[i] for i in range(len(prompts))]


def lengths_read(base: Any) -> list[int]:
    """Filled with the number of tokens that each later forward of the backbone is given."""
    read: list[int] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("input_ids")
        read.append((kwargs["inputs_embeds"] if given is None else given).shape[1])

    base.register_forward_pre_hook(watch, with_kwargs=True)
    return read


def check_texts(model: Any, training: Any, tokenizer: Any, prompts: list[str], new: int) -> list[str]:
    """The texts of `write`, which are a plain loop's over the training forward, and for which a token is read once."""
    ids = [tokenizer(text)["input_ids"] for text in prompts]
    want = [detokenize(tokenizer, written) for written in greedily(training, ids, new, tokenizer.eos_token_id)]
    way_to_write(model, ids[0])  # the trials, before it is counted what is read
    pads_left(unwrapped(model))
    read = lengths_read(unwrapped(model))
    assert decode(model, tokenizer, [Request(i, new) for i in ids], Decoding(new), 2) == want
    assert sum(n > 1 for n in read) <= len({len(i) for i in ids}), "a prompt is read once"
    assert read.count(1) >= new - 1, "and then one token a step"
    return want


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_a_trained_prefix(family: str, family_dir: Directories, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """20 prompts, 60 tokens, from a run and from its export: the text of a plain loop over the forward that trained."""
    run, _ = short_run(
        family_dir(family),
        save_rows(tmp_path),
        tmp_path / "run",
        "fo-peft",
        {"name": "prefix"},
        steps=4,
        lr=0.05,
    )
    restored = restore(run.path)
    assert restored.adapters is not None
    want = check_texts(restored.model, restored.adapters.model, tiny_tokenizer, PROMPTS, NEW)
    assert len(set(want)) > 3, "the texts differ"
    plain = load_family(family_dir(family))
    ids = [tiny_tokenizer(text)["input_ids"] for text in PROMPTS[:2]]
    without = [detokenize(tiny_tokenizer, w) for w in greedily(plain, ids, NEW, tiny_tokenizer.eos_token_id)]
    assert want[:2] != without, "it matters"
    assert generate(run.path, PROMPTS[:3], max_new_tokens=NEW) == want[:3]
    assert generate(export(run.path, tmp_path / "export"), PROMPTS[:3], max_new_tokens=NEW) == want[:3]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["prompt", "dept", "lora", "ia3"])
def test_texts_of_the_other_adapters(family: str, name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    adapters = adapted(name, load_family(family_dir(family)), tiny_tokenizer)
    check_texts(adapters.model, adapters.model, tiny_tokenizer, PROMPTS[:6], 20)


# ---------------------------------------------------------------------------------------------------- what is found out


def broken(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A version in which `generate` drops a prefix: always, or where it has a cache."""

    def drops(self: Any, base: Any, weights: Any, call: dict[str, Any], read: int) -> dict[str, Any]:
        return {} if when == "always" or call.get("use_cache") else RIGHT(self, base, weights, call, read)

    monkeypatch.setattr(_front.PrefixFront, "write", drops)


def test_an_adapter_that_is_dropped_is_refused(
    family_dir: Directories, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, "always")
    model = adapted("prefix", load_family(family_dir("llama")), tiny_tokenizer).model
    with pytest.raises(RunError) as caught:
        decode(model, tiny_tokenizer, [Request(tiny_tokenizer(PROMPTS[0])["input_ids"], 5)], Decoding(5), 2)
    line = str(caught.value)
    assert "SoftModel: `generate` computes other logits than the forward that was trained" in line
    assert all(each in line for each in VERSIONS)
    assert len(line.splitlines()) == 1


def test_a_cache_that_drops_it_is_left_out_and_said(
    family_dir: Directories, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken(monkeypatch, "with a cache")
    model = adapted("prefix", load_family(family_dir("llama")), tiny_tokenizer).model
    ids = [tiny_tokenizer(text)["input_ids"] for text in PROMPTS[:4]]
    with caplog.at_level(logging.WARNING, "zofo"):
        texts = decode(model, tiny_tokenizer, [Request(i, 8) for i in ids], Decoding(8), 2)
        decode(model, tiny_tokenizer, [Request(ids[0], 8)], Decoding(8), 2)
    assert texts == [detokenize(tiny_tokenizer, w) for w in greedily(model, ids, 8, tiny_tokenizer.eos_token_id)]
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("SoftModel.generate is right without its cache alone")
    assert all(each in line for each in VERSIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_right_and_wrong_are_told_apart_in_every_dtype(
    dtype: torch.dtype, family_dir: Directories, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tiny_tokenizer(PROMPTS[3])["input_ids"]
    models = [adapted("prefix", load_family(family_dir("llama")).to(dtype), tiny_tokenizer).model for _ in range(3)]
    assert right_way(models[0], ids) == {}
    broken(monkeypatch, "with a cache")
    assert right_way(models[1], ids) == {"use_cache": False}
    broken(monkeypatch, "always")
    assert right_way(models[2], ids) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["prefix", "prompt", "lora"])
def test_rounding_of_a_trained_model_is_not_taken_for_it(dtype: torch.dtype, name: str, stories_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(stories_dir, dtype=dtype).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(stories_dir)
    adapters = adapted(name, model, tokenizer, noise=0.1)
    assert right_way(adapters.model, tokenizer("Once upon a time there was a dog")["input_ids"]) == {}
    assert pads_left(model)


def test_pefts_own_prefix_is_tried_when_it_is_exported(
    family_dir: Directories, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An export is PEFT's: where these versions of it write another text, one line says so, and zofo's own is right."""
    run, _ = short_run(
        family_dir("llama"), save_rows(tmp_path), tmp_path / "run", "fo-peft", {"name": "prefix"}, lr=0.05
    )
    restored = restore(run.path)
    assert restored.adapters is not None
    theirs = restored.adapters.as_peft(run.deployed)
    ids = [tiny_tokenizer("The answer is")["input_ids"]]
    with caplog.at_level(logging.WARNING, "zofo"):
        exported = run.export(tmp_path / "export", merge=False)
    said = [r.getMessage() for r in caplog.records if "does not write what this adapter computes" in r.getMessage()]
    assert bool(said) == (right_way(theirs, ids[0]) != {})
    for line in said:
        assert str(exported) in line
        assert all(each in line for each in VERSIONS)
    model, _ = load(exported)
    assert right_way(model, ids[0]) == {}


def test_without_a_name_for_the_cache(
    family_dir: Directories, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third name that is not known here: a prefix is refused by the version, and nothing is dropped."""
    monkeypatch.setattr(asked, "CACHE_NAMES", ("kv",))
    model = load_family(family_dir("llama"))
    assert cache_name(model) is None
    with pytest.raises(InputError, match=f"prefix needs a model that caches keys and values.*{VERSIONS[0]}"):
        adapted("prefix", model, tiny_tokenizer)
    assert cache_name(load_family(family_dir("gpt2"))) is None


def test_the_name_is_found_by_what_a_model_does(family_dir: Directories) -> None:
    """A model that takes anything and fills nothing under the first name: the second is right."""
    model = load_family(family_dir("llama"))
    name = cache_name(model)
    assert name in asked.CACHE_NAMES
    other = load_family(family_dir("llama"))

    def swallow(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs.pop("cache", None)
        if "past_key_values" in kwargs:  # as a version before 5.24 calls it
            kwargs[str(name)] = kwargs.pop("past_key_values")
        return args, kwargs

    other.register_forward_pre_hook(swallow, with_kwargs=True)
    assert cache_name(other) == "past_key_values"
    assert cache_name(load_family(family_dir("mamba"))) is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mamba"])
def test_padding_is_tried(family: str, family_dir: Directories) -> None:
    model = load_family(family_dir(family))
    assert pads_left(model) == (family != "mamba")

    def forget(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if isinstance(mask := kwargs.get("attention_mask"), Tensor):
            kwargs["attention_mask"] = torch.ones_like(mask)
        return args, kwargs

    other = load_family(family_dir(family))
    other.register_forward_pre_hook(forget, with_kwargs=True)
    assert pads_left(other) is False


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64])
def test_a_mask_of_any_kind_says_on_which_side_the_padding_is(
    dtype: torch.dtype, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    writer = adapted("prompt", load_family(family_dir("llama")), tiny_tokenizer).model
    row, settings = [0, 70, 71, 80], {"max_new_tokens": 5, "pad_token_id": 2}
    want = writer.generate(torch.tensor([row]), **settings)[0, len(row) :].tolist()
    for ids, mask in (([2, 2, *row], [0, 0, 1, 1, 1, 1]), ([*row, 2, 2], [1, 1, 1, 1, 0, 0])):
        out = writer.generate(torch.tensor([ids]), attention_mask=torch.tensor([mask]).to(dtype), **settings)
        assert out[0, len(ids) :].tolist() == want, (ids, mask)
