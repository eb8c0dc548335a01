"""Texts are those of a clean checkpoint, whatever its generation_config asks for: every field that there is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.family_runs import Directories, adapted, load_family
from zofo.api.generate import generate
from zofo.api.targets import open_target
from zofo.data import Decoding
from zofo.eval.decoding import Request, decode, prompt_ids

PAD, NEW = 2, 8
PROMPTS = ["a warm and funny film that I would gladly see again", "the plot", "Question:"]
MOST = list(range(3, 300))  # of the vocabulary's ids

# A value for each field that another text, or a crash, would show, were it followed; fields unknown here get 3.
STRANGE: dict[str, Any] = {
    "max_length": 3,
    "max_new_tokens": 2,
    "min_length": 60,
    "min_new_tokens": 60,
    "early_stopping": True,
    "max_time": 1e-9,
    "stop_strings": ["e", " "],
    "do_sample": True,
    "num_beams": 3,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"backend": "quanto"},
    "temperature": 7.0,
    "top_k": 2,
    "top_p": 0.1,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9,
    "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0,
    "length_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in MOST],
    "renormalize_logits": True,
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 1,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 9.0],
    "suppress_tokens": MOST,
    "begin_suppress_tokens": MOST,
    "sequence_bias": [[[5], 99.0]],
    "token_healing": True,
    "guidance_scale": 3.0,
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 99.0},
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "is_assistant": True,
    "num_assistant_tokens_schedule": "heuristic",
    "prompt_lookup_num_tokens": 2,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "diversity_penalty": 1.0,
    "low_memory": True,
    "constraints": [1],
    "force_words_ids": [[5]],
    "disable_compile": True,
    "custom_entry": "no field of transformers'",
}
OURS = ("eos_token_id",)  # what a checkpoint may say: where its texts end
FIELDS = sorted({*STRANGE, *(n for n in vars(GenerationConfig()) if n[0] != "_" and n not in OURS)})


@pytest.fixture(scope="module")
def folder(family_dir: Directories) -> Path:
    return family_dir("llama", initializer_range=0.2)


def written(model: Any, tokenizer: Any, **sampling: Any) -> list[str]:
    requests = [Request(prompt_ids(tokenizer, text, "x"), NEW, i) for i, text in enumerate(PROMPTS)]
    return decode(model, tokenizer, requests, Decoding(NEW, **sampling), PAD)


SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 2}


@pytest.fixture(scope="module")
def clean(folder: Path, tiny_tokenizer: Any) -> list[str]:
    texts = written(load_family(folder), tiny_tokenizer)
    assert len(set(texts)) == 3
    return texts


@pytest.fixture(scope="module")
def clean_sampled(folder: Path) -> list[str]:
    return generate(folder, PROMPTS, max_new_tokens=NEW, **SAMPLED)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return load_family(folder)


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_the_checkpoint_changes_a_text(
    field: str, loaded: Any, tiny_tokenizer: Any, clean: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, strange = loaded, copy.deepcopy(loaded.generation_config)
    monkeypatch.setattr(model, "generation_config", strange)  # of this field alone
    setattr(strange, field, STRANGE.get(field, 3))
    before = copy.deepcopy(vars(strange))
    assert written(model, tiny_tokenizer) == clean
    assert model.generation_config is strange
    assert vars(strange) == before, "it is the user's again"
    assert written(model, tiny_tokenizer, stop=("\x00",)) == clean


@pytest.mark.parametrize("field", ["no_repeat_ngram_size", "suppress_tokens", "forced_eos_token_id", "max_time"])
def test_the_fields_are_followed_by_transformers_own_generate(field: str, folder: Path, tiny_tokenizer: Any) -> None:
    """Else the sweep would hold nothing."""
    texts = []
    for value in (None, STRANGE[field]):
        model = load_family(folder)
        setattr(model.generation_config, field, value)
        row = torch.tensor([prompt_ids(tiny_tokenizer, "the plot", "x")])
        texts.append(model.generate(row, max_new_tokens=30, do_sample=False).tolist())
    assert texts[0] != texts[1]


@pytest.mark.parametrize("name", ["lora", "ia3", "prompt", "prefix"])
def test_adapters_of_a_run_and_of_peft_write_by_no_config_but_ours(
    name: str, folder: Path, tiny_tokenizer: Any
) -> None:
    """PEFT's models hold a generation_config beside their base's, and put it in that one's place."""
    texts = {}
    for strange in (False, True):
        adapters = adapted(name, load_family(folder), tiny_tokenizer)
        theirs = adapters.as_peft("p")
        for kind, model in {"run": adapters.model, "deployed": adapters.deployable("p"), "peft": theirs}.items():
            for holder in (model, model.get_base_model()) if strange else ():
                if hasattr(holder, "generation_config"):
                    for field in ("no_repeat_ngram_size", "num_beams", "repetition_penalty", "suppress_tokens"):
                        setattr(holder.generation_config, field, STRANGE[field])
            if kind == "peft" and name == "prefix":
                continue  # whether PEFT's prefix writes at all hangs on its version
            texts[kind, strange] = written(model, tiny_tokenizer)
    assert all(texts[kind, True] == texts[kind, False] for kind, strange in texts if strange)


# The sweep above has every field, on a model that is open; of files a fourth, the others with `make test-slow`
IN_A_FILE = [f if n % 4 == 0 else pytest.param(f, marks=pytest.mark.slow) for n, f in enumerate(sorted(STRANGE))]


@pytest.mark.parametrize("field", IN_A_FILE)
def test_a_directorys_file(
    field: str, folder: Path, tmp_path: Path, clean: list[str], clean_sampled: list[str]
) -> None:
    """Written as a publisher would have it; sampled texts are those of the seed alone, too."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    file = tmp_path / "generation_config.json"
    file.unlink()
    file.write_text(json.dumps({"eos_token_id": 1, "do_sample": True, field: STRANGE[field]}))
    assert generate(tmp_path, PROMPTS, max_new_tokens=NEW, batch_size=3) == clean
    assert generate(tmp_path, PROMPTS, max_new_tokens=NEW, **SAMPLED) == clean_sampled


def test_a_users_own_generate_follows_the_checkpoint(folder: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = open_target(folder).model
    model.generation_config.suppress_tokens = MOST
    written(model, tiny_tokenizer)
    row = torch.tensor([prompt_ids(tiny_tokenizer, "the plot", "x")])
    new = model.generate(row, max_new_tokens=4, do_sample=False)[0, row.shape[1] :]
    assert not set(new.tolist()) & set(MOST)
