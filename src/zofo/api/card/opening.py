"""The code that opens an export: a card's quick start, which runs as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LIBRARIES = {"plain": "transformers", "apart": "peft", "ours": "zofo"}


@dataclass(frozen=True)
class Opening:
    """kind: one plain model; a backbone with a PEFT adapter beside it; or an adapter that PEFT does not know. way: what
    `generate` is given so that it writes what the model computes, None where nothing makes it so. chat: the prompt
    stands in the chat template, after the system turn if there is one. hub: (owner/name, branch) of a push."""

    kind: Literal["plain", "apart", "ours"]
    way: Mapping[str, Any] | None
    chat: bool = False
    system: str | None = None
    hub: tuple[str, str | None] | None = None
    remote_code: bool = False

    @property
    def library(self) -> str:
        return LIBRARIES[self.kind]

    def code(self) -> str:
        """Python, without the end of its last line. HERE is the folder, or its repository on the hub."""
        return "\n".join([*self._load(), "", *self._write()])

    def _load(self) -> list[str]:
        code = ", trust_remote_code=True" if self.remote_code else ""
        if self.kind == "ours":
            return ["import zofo", *self._here(), "model, tokenizer = zofo.load(HERE)"]
        imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer", *self._here()]
        if self.kind == "plain":
            more = f", revision={self.hub[1]!r}" if self.hub is not None and self.hub[1] is not None else ""
            return [
                *imports,
                f"model = AutoModelForCausalLM.from_pretrained(HERE{more}{code})",
                f"tokenizer = AutoTokenizer.from_pretrained(HERE{more}{code})",
            ]
        return [
            "from peft import PeftModel",
            *imports,
            f'backbone = AutoModelForCausalLM.from_pretrained(f"{{HERE}}/backbone"{code})',
            "model = PeftModel.from_pretrained(backbone, HERE)",
            f'tokenizer = AutoTokenizer.from_pretrained(f"{{HERE}}/backbone"{code})',
        ]

    def _here(self) -> list[str]:
        """HERE. Of two parts a folder: with a subfolder from_pretrained goes by the adapter config beside it."""
        if self.hub is None:
            return ["", 'HERE = "."  # the path of this folder']
        repository, branch = self.hub
        if self.kind == "plain":
            return ["", f'HERE = "{repository}"']
        more = f", revision={branch!r}" if branch is not None else ""
        download = "from huggingface_hub import snapshot_download"
        return [download, "", f'HERE = snapshot_download("{repository}"{more})']

    def _write(self) -> list[str]:
        prompt = ['inputs = tokenizer("TEXT", return_tensors="pt", return_token_type_ids=False)']
        if self.chat:
            turns = [{"role": "system", "content": self.system}] if self.system is not None else []
            listed = "".join(f"{turn!r}, " for turn in turns) + '{"role": "user", "content": "TEXT"}'
            prompt = [
                f"messages = [{listed}]",
                "inputs = tokenizer.apply_chat_template(",
                '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
                ")",
            ]
        if self.kind == "ours" or self.way is None:
            return [*prompt, 'logits = model(input_ids=inputs["input_ids"], use_cache=False).logits']
        more = "".join(f", {key}={value!r}" for key, value in self.way.items())
        return [
            *prompt,
            f"output = model.generate(**inputs, max_new_tokens=40{more})",
            "print(tokenizer.decode(output[0], skip_special_tokens=True))",
        ]
