"""A merged adapter is the same model; where a tensor has a use that the adapter does not see, it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.family_runs import Directories, adapted, adapter_for, load_family, logits
from zofo import InputError, finetune
from zofo.models.adapters._bank import Bank

FAMILIES = ("llama", "llama-untied", "opt", "gpt2", "qwen2", "gemma2", "mamba", "mixtral")
IDS = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
EMBEDDINGS = {"llama": "embed_tokens", "opt": "embed_tokens", "gpt2": "wte", "qwen2": "embed_tokens"}


def check_merge(adapters: Any) -> None:
    assert adapters.mergeable("p") == ""
    with adapters.active("p"):
        ours = logits(adapters.model, IDS)
    merged = adapters.merged("p")
    with torch.no_grad():
        torch.testing.assert_close(logits(merged, IDS), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_is_the_same_model(
    family: str, name: str, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    settings = adapter_for(family, name)
    assert settings is not None
    settings.pop("name")
    check_merge(adapted(name, load_family(family_dir(family)), tiny_tokenizer, **settings))


@pytest.mark.parametrize("family", EMBEDDINGS)
def test_an_embedding_that_is_the_head_too_is_refused(
    family: str, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    target = EMBEDDINGS[family]
    adapters = adapted("lora", load_family(family_dir(family)), tiny_tokenizer, target_modules=[target])
    reason = adapters.mergeable("p")
    assert f"{target}.weight is lm_head.weight, too" in reason
    assert f"train without '{target}' in adapter.target_modules" in reason
    before = logits(adapters.model, IDS)
    with pytest.raises(InputError, match=r"^--merge: .*\(one tensor with two uses\)"):
        adapters.merged("p")
    assert torch.equal(logits(adapters.model, IDS), before)


def test_the_same_target_is_merged_where_the_head_is_its_own(family_dir: Directories, tiny_tokenizer: Any) -> None:
    targets = ["embed_tokens", "q_proj"]
    check_merge(adapted("lora", load_family(family_dir("llama-untied")), tiny_tokenizer, target_modules=targets))


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_two_layers_with_one_weight(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """Each has an adapter of its own, and both would be added to the one tensor."""
    model = load_family(family_dir("llama"))
    one, two = (layer.self_attn for layer in model.model.layers)
    two.v_proj.weight = one.v_proj.weight
    adapters = adapted(name, model, tiny_tokenizer, target_modules=["v_proj"])
    reason = adapters.mergeable("p")
    assert "layers.0.self_attn.v_proj.weight is model.layers.1.self_attn.v_proj.weight, too" in reason
    others = adapted(name, load_family(family_dir("llama")), tiny_tokenizer, target_modules=["v_proj"])
    assert others.mergeable("p") == ""


def test_one_module_in_two_places_of_which_peft_adapts_one(family_dir: Directories, tiny_tokenizer: Any) -> None:
    model = load_family(family_dir("llama"))
    one, two = (layer.mlp for layer in model.model.layers)
    two.up_proj = one.up_proj
    adapters = adapted("lora", model, tiny_tokenizer, target_modules=["up_proj"])
    assert "layers.0.mlp.up_proj.weight is model.layers.1.mlp.up_proj.weight, too" in adapters.mergeable("p")


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_block_that_is_called_twice_is_one_use(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """As ALBERT's and Zamba's: the adapter is inside the block, and meets each of its calls."""
    model = load_family(family_dir("llama"))
    model.model.layers[1] = model.model.layers[0]
    check_merge(adapted(name, model, tiny_tokenizer, target_modules=["v_proj", "down_proj"]))


@pytest.mark.parametrize("name", ["prompt", "prefix", "dept"])
def test_what_changes_no_weights_says_so(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    adapters = adapted(name, load_family(family_dir("llama")), tiny_tokenizer)
    assert "changes no weights" in adapters.mergeable("p")


def test_a_bank_has_none_to_merge(family_dir: Directories, tiny_tokenizer: Any) -> None:
    from zofo.models.adapters import lora

    members = Bank.all_members(("p", "s"), ("a", "b"))
    inner = lora.Adapter(lora.Config()).build(load_family(family_dir("llama")), members, 0, tiny_tokenizer)
    assert "one for each training task" in Bank(inner, ("p", "s"), ("a", "b")).mergeable("p")


def test_an_export_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        {"name": "fo-peft", "lr": 1e-2},
        {"name": "lora", "target_modules": ["embed_tokens"]},
        output_dir=tmp_path / "run",
        max_steps=2,
        batch_size=4,
    )
    with pytest.raises(InputError, match=r"^--merge: model\.embed_tokens\.weight is lm_head\.weight, too"):
        run.export(tmp_path / "merged", merge=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", sentiment_file.name]
    exported = run.export(tmp_path / "out")
    assert (exported / "adapter_config.json").is_file()
