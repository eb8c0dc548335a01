"""Quantised tensors: told from weights, left out of theta, and passed by gradients as their values would be."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.family_runs import adapted, save_family
from tests.tiny_models import build, cpu_loss
from zofo.config.sections import ModelConfig
from zofo.models import load as models
from zofo.models.activation_checkpointing import dequantize_in_backward
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.point import Point
from zofo.zo.quantized import Frozen, frozen, is_quantized

pytest.importorskip("torchao")
IDS = torch.arange(3, 27).view(3, 8)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, with biases on the attention's matrices. Read only."""
    return save_family("llama-untied", tmp_path_factory.mktemp("quantised"))


def int8(directory: Path, dtype: Any = "float32") -> models.Loaded:
    return models.load(ModelConfig(str(directory), device="cpu", dtype=dtype, quantization="int8"))


def dequantized(loaded: models.Loaded) -> Any:
    """A plain copy of the model, with the values that the codes stand for."""
    model = copy.deepcopy(loaded.model)
    for module in model.modules():
        if isinstance(module, nn.Linear) and is_quantized(module.weight):
            module.weight = nn.Parameter(module.weight.dequantize(), requires_grad=False)
            del module.forward  # that of `dequantize_in_backward`
    return model


class PlainInt8(nn.Linear):
    """Rows of integers beside a scale a row, both parameters, as some libraries keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.weight_scale, self.bias)


# ------------------------------------------------------------------------------------------------------ what is frozen


def test_codes_are_told_from_weights() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert not is_quantized(nn.Parameter(torch.ones(2, dtype=dtype)))
    for dtype in (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn):
        assert is_quantized(torch.ones(2).to(dtype))
    packed = nn.Parameter(torch.ones(4, 1, dtype=torch.bfloat16))
    packed.quant_state = SimpleNamespace(shape=(4, 4))  # pyright: ignore  (bitsandbytes, bytes declared as bfloat16)
    assert is_quantized(packed)
    assert not is_quantized(build("llama").model.norm.weight)


def test_a_scale_is_frozen_with_its_codes_and_a_bias_is_not() -> None:
    model = build("llama-untied")
    layer = model.model.layers[0].self_attn
    layer.q_proj = PlainInt8(layer.q_proj)
    path = "model.layers.0.self_attn.q_proj."
    assert set(frozen(model)) == {path + "weight", path + "weight_scale"}
    names = {name for name, _ in model.named_parameters()}
    assert set(Point(model)) == names - {path + "weight", path + "weight_scale"}
    frozen_weights = Frozen(model)
    assert (len(frozen_weights), frozen_weights.size, frozen_weights.nbytes) == (1, 32 * 32, 32 * 32 + 32 * 4)
    before = frozen_weights.digest()
    layer.q_proj.bias.data += 1  # theta's
    assert frozen_weights.digest() == before
    layer.q_proj.weight_scale.data[0] *= 2
    after = frozen_weights.digest()
    assert after != before
    layer.q_proj.weight.data[3, 4] += 1
    assert frozen_weights.digest() != after


def test_theta_is_what_is_not_quantised(llama: Path) -> None:
    loaded = int8(llama)
    assert loaded.frozen
    of_layer = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    matrices = {f"model.layers.{i}.{part}.weight" for i in range(2) for part in of_layer}
    assert set(frozen(loaded.model)) == matrices
    theta = Point(loaded.model)
    assert set(theta) == {name for name, _ in loaded.model.named_parameters()} - matrices
    assert any(name.endswith("q_proj.bias") for name in theta)
    plain = models.load(ModelConfig(str(llama), device="cpu")).model
    assert loaded.frozen.size + theta.size == sum(p.numel() for p in plain.parameters())
    assert loaded.frozen.left == theta.size
    assert loaded.frozen.nbytes < 1.5 * loaded.frozen.size  # a byte a weight, and scales


def test_a_digest_covers_codes_and_scales(llama: Path) -> None:
    one, other = int8(llama), int8(llama)
    assert one.frozen
    assert other.frozen
    before = one.frozen.digest()
    assert before == other.frozen.digest()
    weight = one.model.model.layers[1].mlp.up_proj.weight
    weight.qdata[5, 6] ^= 1
    assert one.frozen.digest() != before
    weight.qdata[5, 6] ^= 1
    assert one.frozen.digest() == before
    weight.scale[7] *= 1.0001
    assert one.frozen.digest() != before
    adapted("lora", other.model, other.tokenizer)  # PEFT renames the layers
    assert other.frozen.digest() == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_nothing_holds_the_file_that_was_quantised(tmp_path: Path) -> None:
    """A view of one norm in it would keep all of it in memory."""
    path = save_family("llama", tmp_path)
    loaded = int8(path)
    gc.collect()
    assert loaded.frozen
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight  # tied as before


# -------------------------------------------------------------------------------------------------- zeroth-order shifts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["layer", "copy", "inplace"])
def test_an_estimate_shifts_the_rest_and_writes_nothing(llama: Path, mode: str, dtype: str) -> None:
    loaded, written = int8(llama, dtype), int8(llama, dtype)
    theta, moved = Point(loaded.model, mode=mode), Point(written.model)
    before, codes = theta.sha256(), frozen_digest(loaded)
    z, c = Direction(11), 1e-2
    moved.add_(ZOGrad(((1.0, z),), 0.0, 0), c, None if mode == "inplace" else z.rounding_seed)
    with torch.no_grad(), theta.shifted(z, c):
        shifted = loaded.model(input_ids=IDS, use_cache=False).logits
    with torch.no_grad():
        assert torch.equal(shifted, written.model(input_ids=IDS, use_cache=False).logits)
        assert not torch.equal(shifted, loaded.model(input_ids=IDS, use_cache=False).logits)
    assert frozen_digest(loaded) == codes == frozen_digest(written)
    if mode != "inplace":  # which drifts by its nature
        assert theta.sha256() == before
        assert not theta.audit(lambda: loaded.model(input_ids=IDS, use_cache=False))


def frozen_digest(loaded: models.Loaded) -> str:
    assert loaded.frozen
    return loaded.frozen.digest()


# --------------------------------------------------------------------------------------------------- first-order, QLoRA


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "ia3", "dept"])
def test_gradients_are_those_on_the_dequantised_model(llama: Path, adapter: str) -> None:
    loaded = int8(llama)
    plain, grads = dequantized(loaded), []
    for model in (loaded.model, plain):
        adapters = adapted(adapter, model, loaded.tokenizer)
        loss = cpu_loss(model, "lm", adapters)
        with adapters.active("p"):
            out = loss.scorer.model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float()
            torch.log_softmax(out, -1)[..., 5].sum().backward()
        grads.append({name: param.grad for name, param in adapters.parameters("p").items()})
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()))


def test_a_backward_pass_keeps_codes_and_no_values(llama: Path) -> None:
    """Otherwise it would hold the model unquantised, as torchao's own product does."""

    def kept(model: Any) -> tuple[set[tuple[int, ...]], Tensor]:
        shapes: set[tuple[int, ...]] = set()
        embedded = model.get_input_embeddings()(IDS).requires_grad_(True)
        pack = lambda t: shapes.add(tuple(t.shape)) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(inputs_embeds=embedded, use_cache=False).logits[:, -1].logsumexp(-1).sum().backward()
        assert embedded.grad is not None
        return shapes, embedded.grad

    loaded = int8(llama)
    down = {(64, 32), (32, 64)}  # of the feed-forward's matrices and of nothing else
    shapes, gradient = kept(loaded.model)
    assert not shapes & down
    for module in loaded.model.modules():
        vars(module).pop("forward", None)
    shapes, theirs = kept(loaded.model)
    assert shapes & down
    torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-6)
    assert dequantize_in_backward(loaded.model) == 14
    twin = copy.deepcopy(loaded.model.model.layers[0].self_attn.q_proj)
    twin.bias += 1
    x = torch.ones(1, 32, requires_grad=True)
    torch.testing.assert_close(twin(x), loaded.model.model.layers[0].self_attn.q_proj(x) + 1)
