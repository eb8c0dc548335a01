"""`python -m zofo.api.quickstart.gguf FILE DIR`: a GGUF checkpoint as a plain transformers directory in fp32.

A process of its own: what unpacking takes must not count as the memory of the training that follows.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(gguf: Path, target: Path) -> None:
    """Unpack the weights to fp32 and save them, with the tokenizer, into `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from zofo.models._transformers import quiet

    name, where = gguf.name, str(gguf.parent)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            where,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            trust_remote_code=False,
        )
    vars(model.config).pop("quantization_config", None)  # the weights are plain now: no loader must look for blocks
    model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    AutoTokenizer.from_pretrained(where, gguf_file=name, trust_remote_code=False).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
