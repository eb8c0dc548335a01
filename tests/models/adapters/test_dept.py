"""DePT against a computation of its own in float64, its files, and its generation against one whole forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import family_runs
from tests.conftest import make_tokenizer, sentiment_rows, write_rows
from tests.family_runs import load_family, save_family
from zofo import InputError, evaluate, export, finetune, load
from zofo.config import registry

IDS = torch.tensor([[5, 9, 20, 33, 7, 40, 8], [8, 2, 40, 11, 30, 9, 9]])
S = 5  # positions that are shifted: fewer than IDS has


@pytest.fixture
def base(tiny_model_dir: Path) -> Any:
    return load_family(tiny_model_dir)


def adapted(base: Any, noise: float = 0.3, **settings: Any) -> Any:
    settings = {"tokens": 3, "r": 2, "max_length": S, **settings}
    return family_runs.adapted("dept", base, make_tokenizer(), noise, moved=("p", "s"), **settings)


def by_hand(base: Any, state: dict[str, Tensor], ids: Tensor, scale: float = 1.0) -> Tensor:
    """[P; E + scale A B] row by row and position by position, in float64: the logits [R, L, V] of the own tokens."""
    base = base.double()
    p, a, b = (state[key].double() for key in ("prompt", "A", "B"))
    table, logits = base.get_input_embeddings().weight, []
    for row in ids:
        words = [
            table[token] + (scale * sum(a[t, k] * b[k] for k in range(a.shape[1])) if t < len(a) else 0.0)
            for t, token in enumerate(row)
        ]
        with torch.no_grad():
            logits.append(base(inputs_embeds=torch.cat([p, torch.stack(words)])[None]).logits[0, len(p) :])
    return torch.stack(logits)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_forward_is_the_papers(base: Any, scale: float) -> None:
    adapters = adapted(base, scale=scale)
    with torch.no_grad(), adapters.active("s"):
        ours = adapters.model(input_ids=IDS).logits[:, 3:]
    torch.testing.assert_close(ours.double(), by_hand(base, adapters.state("s"), IDS, scale), rtol=1e-4, atol=1e-5)


def test_each_position_within_s_has_its_own_shift(base: Any) -> None:
    """Row t of A moves the logits from position t on and no others; positions beyond s are read as they are."""
    adapters = adapted(base, noise=0.0)
    with torch.no_grad():
        adapters.parameters("p")["B"].fill_(0.5)
        adapters.parameters("p")["A"].zero_()
        plain = adapters.model(input_ids=IDS).logits[:, 3:]
        for t in range(S):
            adapters.parameters("p")["A"][t] = 1.0
            moved = (adapters.model(input_ids=IDS).logits[:, 3:] - plain).abs().amax(-1)
            assert (moved[:, :t] < 1e-6).all()
            assert (moved[:, t:] > 1e-6).all()
            adapters.parameters("p")["A"][t] = 0.0
        bound = adapters.model(input_ids=IDS[:, :S]).logits  # an input of s tokens and one of more
        torch.testing.assert_close(bound[:, 3:], plain[:, :S], rtol=1e-5, atol=1e-6)


def test_the_start_changes_no_word(base: Any) -> None:
    """B = 0: the model reads the prompt's words and the text. A is drawn from the key, in +-1 / sqrt(r)."""
    state = torch.get_rng_state()
    adapters = adapted(base, noise=0.0, max_length=200)
    assert torch.equal(torch.get_rng_state(), state)
    words = make_tokenizer()(registry.load("adapters", "dept").Config().text, add_special_tokens=False)["input_ids"][:3]
    with torch.no_grad():
        expected = base(input_ids=torch.cat([torch.tensor([words] * 2), IDS], 1)).logits[:, 3:]
        torch.testing.assert_close(adapters.model(input_ids=IDS).logits[:, 3:], expected, rtol=1e-5, atol=1e-5)
    a = adapters.state("p")["A"]
    assert a.abs().max() <= 2**-0.5
    assert float(a.std()) == pytest.approx(6**-0.5, rel=0.1)  # of a uniform law of that width


def test_the_defaults_train_as_many_numbers_as_a_prompt_of_ten() -> None:
    config = registry.load("adapters", "dept").Config()
    ours = config.tokens * 576 + config.r * (config.max_length + 576)
    assert ours == 5632
    assert ours == pytest.approx(10 * 576, rel=0.03)


# ----------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "mamba"])
def test_what_is_written_is_read_back_with_the_shift_of_its_position(family: str, cache: bool, tmp_path: Path) -> None:
    """Logits of every step against one forward over prompt and continuation; S lies within the continuation."""
    weights = {"initializer_range": 0.2, "init_std": 0.2}
    base = load_family(save_family(family, tmp_path, positions=64, window=6, **weights))
    adapters = adapted(base, max_length=11)
    model = adapters.deployable("s")
    out = model.generate(
        IDS,
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=None,
        use_cache=cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert out.sequences.shape == (2, 16)
    with torch.no_grad():
        whole = adapters.model(input_ids=out.sequences).logits[:, 3:]
    torch.testing.assert_close(torch.stack(out.logits, 1), whole[:, 6:-1], rtol=1e-4, atol=1e-5)
    assert torch.equal(out.sequences[:, 7:], whole[:, 6:-1].argmax(-1))
    with adapters.active("p"):
        assert not torch.equal(model.generate(IDS, max_new_tokens=9, do_sample=False), out.sequences)
    assert not base._forward_pre_hooks


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_written_as_if_alone(side: str, base: Any) -> None:
    model = adapted(base).deployable("p")
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    padded, mask = IDS.clone(), torch.ones_like(IDS)
    unseen, seen = (slice(0, 3), slice(3, 7)) if side == "left" else (slice(4, 7), slice(0, 4))
    padded[1, unseen], mask[1, unseen] = 2, 0
    sequences = model.generate(padded, attention_mask=mask, **options)
    assert torch.equal(sequences[:1], model.generate(IDS[:1], **options))
    assert torch.equal(sequences[1, 7:], model.generate(IDS[1:, seen], **options)[0, 4:])
    assert torch.equal(sequences[:, :7], padded)


def test_beams_and_samples(base: Any) -> None:
    """What transformers' generate can do: each beam's own cache; the likelier continuation of four than of one."""
    adapters = adapted(base)
    model = adapters.deployable("p")
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "length_penalty": 0.0}

    def logp(rows: Tensor) -> Tensor:
        with torch.no_grad():
            scores = torch.log_softmax(adapters.model(input_ids=rows).logits[:, 3:], -1)[:, 6:-1]
        return scores.gather(2, rows[:, 7:, None]).sum((1, 2))

    beams = model.generate(IDS, num_beams=4, return_dict_in_generate=True, output_scores=True, **options)
    torch.testing.assert_close(logp(beams.sequences), beams.sequences_scores, rtol=1e-4, atol=1e-4)
    assert (logp(beams.sequences) >= logp(model.generate(IDS, **options)) - 1e-5).all()


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Any:
    root = tmp_path_factory.mktemp("dept")
    write_rows(root / "rows.jsonl", sentiment_rows(80))
    method = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-3, "lam": 1.0}
    return finetune(
        str(tiny_model_dir),
        str(root / "rows.jsonl"),
        method,
        {"name": "dept", "r": 3},
        output_dir=root / "out",
        max_steps=12,
        batch_size=4,
        eval_steps=12,
        save_steps=12,
    )


def test_a_run_its_export_and_their_scores(run: Any, tmp_path: Path, tiny_model_dir: Path) -> None:
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-6)
    out = run.export(tmp_path / "export", merge=False)
    config = json.loads((out / "adapter_config.json").read_text())
    assert {"peft_type": "DEPT", "zofo": "dept", "tokens": 4, "r": 3, "max_length": 256}.items() <= config.items()
    assert config["base_model_name_or_path"] == str(out / "backbone")
    task = str(run.path.parent / "rows.jsonl")
    for target in (run.path, out):
        assert evaluate(target, task=task)["loss"] == pytest.approx(evaluate(run.path, task=task)["loss"], rel=1e-6)
    (ours, _), (theirs, tokenizer) = load(run.path), load(out)
    with torch.no_grad():
        logits = ours(input_ids=IDS).logits
        torch.testing.assert_close(theirs(input_ids=IDS).logits, logits, rtol=1e-5, atol=1e-6)
        plain, _ = load(tiny_model_dir)
        assert not torch.allclose(plain(input_ids=IDS).logits, logits[:, 4:], atol=1e-2)
    ids = tokenizer("film 3: a warm", return_tensors="pt")
    written = theirs.generate(ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=4, do_sample=False)
    assert written.shape[1] > ids["input_ids"].shape[1]
    assert not any(p.requires_grad for p in theirs.parameters())


def test_a_merge_is_refused_and_leaves_nothing(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--merge: a dept adapter adds to the text and changes no weights"):
        export(run.path, tmp_path / "merged", merge=True)
    assert not list(tmp_path.iterdir())


def test_a_config_of_unknown_fields_is_refused(run: Any, tmp_path: Path) -> None:
    out = run.export(tmp_path / "export", merge=False)
    for name in ("manifest.json", "zofo.json"):  # as one who changes an export is told to
        (out / name).unlink()
    file = out / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(InputError, match=rf"^{out}: .*depth"):
        load(out)
    file.write_text(json.dumps({**config, "zofo": "depth"}))
    with pytest.raises(InputError, match='unknown adapter "depth"'):
        load(out)
