"""What does not fit is refused in one line with the reason: adapters, models, weights that a shift cannot reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.family_runs import REFUSED, Directories, adapted, save_rows, short_run
from tests.tiny_models import build, config, logits
from zofo import InputError, finetune
from zofo.cli import main as cli
from zofo.config.sections import ModelConfig
from zofo.models.load import load


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_an_adapter_that_does_not_fit(
    family: str, name: str, family_dir: Directories, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=REFUSED[family, name][0]) as error:
        short_run(family_dir(family), rows, tmp_path / "run", adapter={"name": name})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["dt_proj", "out_proj", "conv1d", "norm", "q_proj"])
def test_a_mambas_weights_that_no_adapter_reaches(target: str, tiny_tokenizer: Any) -> None:
    """dt_proj may be multiplied without its module being called, by version; a fused kernel may read out_proj so."""
    called: list[str] = []
    model = build("mamba")
    hook = model.backbone.layers[0].mixer.dt_proj.register_forward_hook(lambda *_: called.append("dt_proj"))
    plain = logits(model)
    hook.remove()
    if target in called:
        adapted_model = adapted("lora", model, tiny_tokenizer, target_modules=[target]).model
        assert not torch.equal(logits(adapted_model), plain), "an adapter of a module that is called changes something"
        return
    reasons = {"conv1d": "is a Conv1d", "norm": "is a MambaRMSNorm", "q_proj": "no module named 'q_proj'"}
    reason = reasons.get(target, "cannot be adapted, 'mamba' models read its weight without calling it")
    with pytest.raises(InputError, match=rf"{reason}.*candidates: {', '.join([*called[:1], 'in_proj', 'x_proj'])}$"):
        adapted("lora", build("mamba"), tiny_tokenizer, target_modules=[target])


def test_dora_is_not_offered(family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use_dora"):
        short_run(family_dir("llama"), rows, tmp_path / "run", adapter={"name": "lora", "use_dora": True})


def _encoder(kind: str, words: int) -> Any:
    sizes: dict[str, Any] = {"vocab_size": words, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "t5":
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=words, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
        )
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=1, **sizes))
    if kind == "deberta":
        return transformers.DebertaForMaskedLM(transformers.DebertaConfig(num_hidden_layers=1, **sizes))
    return transformers.LlamaModel(config("llama-untied", words))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("t5", "t5 is an encoder-decoder model, and zofo takes causal LMs only$"),
        ("bert", r"\(BertLMHeadModel\) is not causal"),
        ("deberta", r"it is no causal language model \(Deberta\)$"),
        ("no head", r"lacks 1 of the weights of a causal LM \(lm_head.weight\), which would be random"),
    ],
)
def test_what_is_no_causal_lm(kind: str, reason: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        _encoder(kind, len(tiny_tokenizer)).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=rf"^model\.name: .*{reason}") as error:
        load(ModelConfig(name=str(tmp_path / "model"), device="cpu"))
    assert "\n" not in str(error.value)


def test_a_bert_made_causal_is_one(tmp_path: Path, tiny_tokenizer: Any) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    settings = transformers.BertConfig(vocab_size=len(tiny_tokenizer), num_hidden_layers=1, is_decoder=True, **sizes)
    with torch.random.fork_rng(devices=[]):
        transformers.BertLMHeadModel(settings).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert load(ModelConfig(name=str(tmp_path), device="cpu")).model.config.is_decoder


class HoarderConfig(transformers.LlamaConfig):
    model_type = "hoarder"


class Hoarder(transformers.LlamaForCausalLM):
    """Keeps a second reference to one weight in a plain list, where no stand-in can reach it."""

    config_class = HoarderConfig  # pyright: ignore[reportAssignmentType]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "spare"):
            self.spare = [self.get_parameter("model.layers.1.mlp.down_proj.weight")]
        out: Any = super().forward(*args, **kwargs)
        out.logits = out.logits + torch.mean(self.spare[0])
        return out


@pytest.fixture
def hoarder_dir(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    transformers.AutoConfig.register("hoarder", HoarderConfig, exist_ok=True)
    transformers.AutoModelForCausalLM.register(HoarderConfig, Hoarder, exist_ok=True)
    settings = config("llama", len(tiny_tokenizer), 128).to_dict()
    settings.pop("model_type")
    with torch.random.fork_rng(devices=[]):
        Hoarder(HoarderConfig(**settings)).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_second_reference_is_refused_by_name(
    hoarder_dir: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    message = r"cannot be shifted, a module reads them past its parameters: model\.layers\.1\.mlp\.down_proj\.weight$"
    with pytest.raises(InputError, match=message):
        finetune(str(hoarder_dir), str(rows), "mezo", output_dir=out, max_steps=2, batch_size=4)
    assert not out.exists()
    command = ["train", "--model", str(hoarder_dir), "--task", str(rows), "--method", "mezo", "--output-dir", str(out)]
    assert cli.run([*command, "train.max_steps=2"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "model.layers.1.mlp.down_proj.weight" in last
    assert not out.exists()
    inplace: dict[str, Any] = {"overrides": ["estimator.shift=inplace"], "max_steps": 2, "batch_size": 4}
    assert finetune(str(hoarder_dir), str(rows), "mezo", output_dir=out, **inplace).info["steps"]["upper"] == 2
