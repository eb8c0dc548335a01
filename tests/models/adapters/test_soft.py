"""What training computes with an adapter is what PEFT computes with the saved one; adapters of other models are
refused; a soft prompt leaves the text less room."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import family_runs
from tests.conftest import make_tokenizer, sentiment_rows, write_rows
from tests.family_runs import load_family, save_family
from zofo import InputError, evaluate, load
from zofo.api.generate import generate
from zofo.config import registry
from zofo.models.adapters._set import room

FAMILIES = ("llama", "gpt2", "opt")
LENGTHS = (9, 4, 7, 1)
NAMES = registry.names("adapters")
DRAWN = ("lora", "dept")


def save_model(root: Path, family: str, positions: int = 64, window: int = 4, **changes: Any) -> Path:
    return save_family(family, root, positions=positions, window=window, **changes)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: save_model(root, family) for family in FAMILIES}


def adapted(name: str, directory: Path, **settings: Any) -> Any:
    """A set on its own copy of the model, p and s away from their start and from each other."""
    return family_runs.adapted(name, load_family(directory), make_tokenizer(), moved=("p", "s"), **settings)


def ragged() -> tuple[Tensor, Tensor]:
    """Rows of different lengths, padded on the right."""
    ids = torch.randint(5, 90, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids * mask, mask.long()


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "qwen2", "gemma2", "mistral", "mixtral"])
@pytest.mark.parametrize("name", ["prefix", "prompt", "dept"])
def test_at_its_start_it_is_the_text_it_starts_from(name: str, family: str, tmp_path: Path) -> None:
    """Real keys and values, or embeddings: the logits are those behind the words themselves, sliding windows too."""
    directory = save_model(tmp_path / "model", family, window=16)
    module, tokenizer, model = registry.load("adapters", name), make_tokenizer(), load_family(directory)
    adapters = module.Adapter(module.Config()).build(model, ("p", "s"), 7, tokenizer)
    words = tokenizer(module.Config().text, add_special_tokens=False)["input_ids"][: adapters.virtual]
    ids = torch.randint(5, 90, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = model(input_ids=torch.cat([torch.tensor([words] * 2), ids], 1)).logits[:, -30:]
        torch.testing.assert_close(adapters.model(input_ids=ids).logits[:, -30:], right, rtol=1e-5, atol=1e-5)
        if (theirs := adapters.as_peft("p")) is not None:  # an export's forward
            torch.testing.assert_close(theirs(input_ids=ids).logits[:, -30:], right, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- equality with PEFT


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["prompt", "prefix", "lora"])
def test_padded_mixed_rows_are_what_peft_computes_of_each_row_alone(
    name: str, family: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    adapters, (ids, mask) = adapted(name, directories[family]), ragged()
    rows = ["p", "s", "s", "p"]
    with torch.no_grad(), adapters.rows(rows) as kwargs:
        mixed = adapters.model(input_ids=ids, attention_mask=mask, **kwargs).logits[:, -ids.shape[1] :]
    for adapter in ("p", "s"):
        adapters.save(adapter, tmp_path / adapter, str(directories[family]))
        theirs = PeftModel.from_pretrained(load_family(directories[family]), str(tmp_path / adapter)).eval()
        with torch.no_grad(), adapters.active(adapter):
            ours = adapters.model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]
        for i, n in enumerate(LENGTHS):
            with torch.no_grad():
                alone = theirs(input_ids=ids[i : i + 1, :n], attention_mask=mask[i : i + 1, :n]).logits[0, -n:]
            torch.testing.assert_close(ours[i, :n], alone, rtol=1e-5, atol=1e-5)
            if rows[i] == adapter:
                torch.testing.assert_close(mixed[i, :n], alone, rtol=1e-5, atol=1e-5)
    assert (ours[0] - mixed[0])[: LENGTHS[0]].abs().max() > 1e-2  # s is not p


def test_left_padding_would_change_a_deployed_prompts_logits(directories: dict[str, Path]) -> None:
    """PEFT drops position ids, so that a row behind padding has other positions: why training pads right."""
    adapters = adapted("prompt", directories["llama"])
    theirs, ids = adapters.deployable("p"), torch.tensor([[5, 9, 20, 33, 7]])
    left, mask = torch.cat([torch.full((1, 4), 2), ids], 1), torch.tensor([[0] * 4 + [1] * 5])
    with torch.no_grad():
        alone = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -5:]
        padded = theirs(input_ids=left, attention_mask=mask).logits[:, -5:]
    assert (alone - padded).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mamba"])
def test_peft_writes_on_as_training_computes(family: str, directories: dict[str, Path], tmp_path: Path) -> None:
    """Logits of each step of PEFT's generation, from the saved directory, against one forward of the training path."""
    from zofo.api.targets import load_export

    directory = directories.get(family) or save_model(tmp_path / "model", family)
    for name in ("prompt", "prefix") if family != "mamba" else ("prompt",):
        adapters, ids = adapted(name, directory), torch.tensor([[5, 9, 20, 33, 7]])
        adapters.save("p", tmp_path / name, str(directory))
        _, deployed = load_export(tmp_path / name)
        out = deployed.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        with torch.no_grad():
            whole = adapters.model(input_ids=out.sequences).logits[:, -out.sequences.shape[1] :]
        torch.testing.assert_close(torch.stack(out.logits, 1), whole[:, 4:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["p-tuning", "projected prefix"])
def test_soft_adapters_of_peft_that_zofo_does_not_train(
    kind: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    """What an encoder made of virtual tokens is read as a prompt or a prefix: the forward and the text are PEFT's."""
    from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, get_peft_model

    from zofo.models._transformers import right_way
    from zofo.models.adapters._peft import peft_apart

    base = load_family(directories["llama"])
    if kind == "p-tuning":
        config: Any = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16)
    else:
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16
        )
    with peft_apart(seed=3):
        theirs: Any = get_peft_model(base, config).eval()
    theirs.save_pretrained(str(tmp_path / "p"))
    written = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    written["base_model_name_or_path"] = str(directories["llama"])
    (tmp_path / "p" / "adapter_config.json").write_text(json.dumps(written))
    ours, _ = load(tmp_path / "p")
    again: Any = PeftModel.from_pretrained(load_family(directories["llama"]), str(tmp_path / "p")).eval()
    ids = torch.tensor([[5, 9, 20, 33, 7]])
    with torch.no_grad():
        right = again(input_ids=ids).logits[:, -5:]
        torch.testing.assert_close(ours(input_ids=ids).logits[:, -5:], right, rtol=1e-5, atol=1e-5)
        plain = load_family(directories["llama"])(input_ids=ids).logits
    assert (right - plain).abs().max() > 1e-2
    assert right_way(ours, ids[0].tolist()) == {}
    assert generate(tmp_path / "p", ["a warm film"], max_new_tokens=5)


def test_a_prompt_on_embeddings_narrower_than_the_model(tmp_path: Path) -> None:
    """OPT-350M's words are half as wide as its layers: PEFT would take the layers' width for the prompt's."""
    directory = save_model(tmp_path / "model", "opt", word_embed_proj_dim=16)
    adapters, ids = adapted("prompt", directory), torch.tensor([[5, 9, 20]])
    adapters.save("p", tmp_path / "p", str(directory))
    deployed, _ = load(tmp_path / "p")
    with torch.no_grad():
        ours, theirs = adapters.model(input_ids=ids).logits, deployed(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- another's adapter


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 48, "head_dim": 12}]
)
def test_an_adapter_of_another_model_is_refused_in_one_line(
    name: str, change: dict[str, int], directories: dict[str, Path], tmp_path: Path
) -> None:
    """By a set, and by what opens a directory. A prompt fits any number of layers of its width."""
    other = save_model(tmp_path / "other", "llama", **change)
    adapted(name, directories["llama"]).save("p", tmp_path / "p", str(directories["llama"]))
    assert len({p.shape for p in load_family(other).parameters()}) > 1
    config = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(directories["llama"])
    shutil.copytree(tmp_path / "p", tmp_path / "beside")
    shutil.copytree(other, tmp_path / "beside" / "backbone")
    if name in ("prompt", "dept") and "hidden_size" not in change:
        load(tmp_path / "beside")
        adapted(name, other).restore("p", tmp_path / "p")
        return
    for directory, act in (
        (tmp_path / "beside", lambda: load(tmp_path / "beside")),
        (tmp_path / "beside", lambda: generate(tmp_path / "beside", ["a"])),
        (None, lambda: adapted(name, other).restore("p", tmp_path / "p")),
    ):
        with pytest.raises(InputError if directory else ValueError) as caught:
            act()
        line = str(caught.value)
        assert len(line.splitlines()) == 1
        assert len(line) < 600
        assert str(directory or "") in line
        assert f"saved for {directories['llama']}" in line
        assert str(directory / "backbone" if directory else other) in line


def test_other_settings_are_refused(directories: dict[str, Path], tmp_path: Path) -> None:
    adapted("dept", directories["llama"], r=3).save("p", tmp_path / "p")
    with pytest.raises(ValueError, match=r"other tensors.*A is \[256, 3\], expected \[256, 4\].*other settings"):
        adapted("dept", directories["llama"]).restore("p", tmp_path / "p")


def test_directories_that_are_no_adapters_are_refused(directories: dict[str, Path], tmp_path: Path) -> None:
    adapters, here = adapted("prompt", directories["llama"]), tmp_path / "p"
    adapters.save("p", here, str(tmp_path / "gone"))
    with pytest.raises(InputError, match=f"^{here}: its base model: no such model directory: {tmp_path / 'gone'}$"):
        load(here)
    config = json.loads((here / "adapter_config.json").read_text())
    (here / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(InputError, match=f"^{here}: its adapter_config.json names no base model"):
        load(here)
    adapters.save("p", here, str(directories["llama"]))
    (here / "adapter_model.safetensors").rename(here / "adapter_model.bin")
    with pytest.raises(InputError, match=f"^{here}: no adapter_model.safetensors.*pickled"):
        load(here)
    (here / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config.json: is no JSON"):
        load(here)


# ---------------------------------------------------------------------------------------------------------------- room


def test_virtual_tokens_take_positions_from_the_text(tmp_path: Path) -> None:
    """GPT-2 has a table of positions: a row that fills it would fail in the table's lookup beside a prompt."""
    directory = save_model(tmp_path / "model", "gpt2", positions=24)
    write_rows(tmp_path / "rows.jsonl", sentiment_rows())
    for name in ("prompt", "prefix", "dept"):
        adapters = adapted(name, directory, tokens=10)
        adapters.save("p", tmp_path / name, str(directory))
        whole = torch.randint(5, 90, (1, 15), generator=torch.Generator().manual_seed(1))
        with pytest.raises(IndexError), torch.no_grad():
            adapters.model(input_ids=whole)
        with torch.no_grad():
            adapters.model(input_ids=whole[:, :14])
        assert evaluate(tmp_path / name, task=str(tmp_path / "rows.jsonl"), limit=4)["n"] == 4
        with pytest.raises(InputError, match=r"^prompt 1: 16 tokens, and the model takes 14"):
            generate(tmp_path / name, ["f" * 15])
        assert generate(tmp_path / name, ["f" * 13], max_new_tokens=9, temperature=1.0)[0]


def test_room() -> None:
    from types import SimpleNamespace as Config

    assert room(None, Config(), 10) is None
    assert room(50, Config(max_position_embeddings=64), 0) == 50
    assert room(50, Config(max_position_embeddings=64), 10) == 50
    assert room(64, Config(max_position_embeddings=64), 10) == 54
    assert room(None, Config(max_position_embeddings=64), 10) == 54
    with pytest.raises(InputError, match=r"adapter.tokens: 63 virtual tokens leave no room .* 64 positions"):
        room(64, Config(max_position_embeddings=64), 63)


# ------------------------------------------------------------------------------------------------------------- redraw


def copied(adapters: Any, name: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in adapters.state(name).items()}


@pytest.mark.parametrize("name", NAMES)
def test_redraw_is_another_start_of_one_adapter(name: str, directories: dict[str, Path]) -> None:
    module = registry.load("adapters", name)
    adapters = module.Adapter(module.Config()).build(load_family(directories["llama"]), ("p", "s"), 7, make_tokenizer())
    before, start = torch.get_rng_state(), copied(adapters, "p")
    if name not in DRAWN:
        with pytest.raises(InputError, match=r"^method.apart: adapter .* starts from (a text|ones), nothing is drawn"):
            adapters.redraw("s", 11)
        return
    adapters.redraw("s", 11)
    first = copied(adapters, "s")
    assert all(torch.equal(adapters.state("p")[key], start[key]) for key in start)
    drawn = [key for key in first if not torch.equal(first[key], start[key])]
    assert drawn
    for key in first:  # the same law: what is 0 at the start stays 0, what is drawn has the same size
        assert bool((first[key] == 0).all()) == bool((start[key] == 0).all())
        assert first[key].std() == pytest.approx(float(start[key].std()), rel=0.2, abs=1e-6)
    adapters.redraw("s", 12)
    assert any(not torch.equal(adapters.state("s")[key], first[key]) for key in drawn)
    adapters.redraw("s", 11)
    assert all(torch.equal(adapters.state("s")[key], first[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.tensor([[5, 9, 20]])
    with torch.no_grad(), adapters.active("s"):
        ours = adapters.model(input_ids=ids).logits[:, -3:]
    if name == "lora":  # a LoRA starts as no change
        with torch.no_grad():
            torch.testing.assert_close(
                ours, load_family(directories["llama"])(input_ids=ids).logits, rtol=1e-5, atol=1e-5
            )
