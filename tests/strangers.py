"""Models of a stranger: a directory whose own code writes a marker file where it is imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CODE = """
from pathlib import Path
Path({mark!r}).write_text("imported")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "strange"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
def generate(model, *args, **kwargs):
    raise RuntimeError("the model's own way to generate")
"""


def stranger(
    plain: Path, folder: Path, mark: Path, model: bool = True, tokenizer: bool = False, generate: bool = False
) -> Path:
    """A copy of a plain Llama's directory in `folder` whose model, tokenizer or way to generate is its own code's.

    The code's name is the folder's: give each its own.
    """
    shutil.copytree(plain, folder)
    name = f"own_{folder.name}"
    (folder / f"{name}.py").write_text(CODE.format(mark=str(mark)))
    if model:
        own = {"AutoConfig": f"{name}.OwnConfig", "AutoModelForCausalLM": f"{name}.OwnModel"}
        change(folder / "config.json", model_type="strange", architectures=["OwnModel"], auto_map=own)
    if tokenizer:
        change(
            folder / "tokenizer_config.json",
            tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": [None, f"{name}.OwnTokenizer"]},
        )
    if generate:
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    return folder


def change(path: Path, **fields: object) -> None:
    """Fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
