"""What depends on the inside of a library stands in one module for it, and a call is never chosen by a name alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import zofo

ROOT = Path(zofo.__file__).parent
HOMES = {
    "transformers": "models/_transformers.py",
    "peft": "models/adapters/_peft.py",
    "torch": "zo/_torch.py",
    "accelerate": None,  # nothing of its inside is needed
    "numba": "zo/kernels/jit.py",
}
# Modules below a library's top that it documents as places to import from
DOCUMENTED = {
    "torch.nn",
    "torch.nn.functional",
    "torch.overrides",
    "torch.utils.checkpoint",
    "torch.autograd",
}
# Attributes of other objects that no documentation names
HIDDEN = {
    "_parameters": "zo/_torch.py",
    "_buffers": "zo/_torch.py",
    "_modules": "zo/_torch.py",
    "_make_wrapper_subclass": "zo/_torch.py",
    "_C": "zo/_torch.py",
    "_active_adapter": "models/adapters/_peft.py",
    "_disable_adapters": "models/adapters/_peft.py",
    "_forward_pre_hooks": "models/adapters/_peft.py",
    "_forward_pre_hooks_with_kwargs": "models/adapters/_peft.py",
    "_is_stateful": "models/_transformers.py",
    "_cache": "zo/kernels/jit.py",
}
# Where transformers compiles chat templates, for `data`, which is below `models`; missing, a RunError says so
BELOW = ("data/chat_template.py", "transformers.utils")
ADAPTER_MODULES = {home for home in HOMES.values() if home}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))) for path in sorted(ROOT.rglob("*.py"))
    ]


def undocumented(name: str) -> bool:
    """Whether a dotted module or `module.name` lies inside a library."""
    top, _, rest = name.partition(".")
    parts = rest.split(".") if rest else []
    if any(part.startswith("_") and not part.endswith("__") for part in parts):
        return True
    return top != "torch" and top != "numba" and bool(parts)


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))


@pytest.mark.parametrize("library", HOMES)
def test_one_module_for_the_inside_of_a_library(library: str) -> None:
    imported = {
        (path, name)
        for path, tree in modules()
        for name in imports(tree)
        if name.split(".")[0] == library and name not in DOCUMENTED and undocumented(name)
    }
    imported -= {BELOW} if library == "transformers" else set()
    assert {path for path, _ in imported} <= {HOMES[library]}, sorted(imported)


def test_hidden_attributes_are_read_in_those_modules_alone() -> None:
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in HIDDEN:
                on_self = isinstance(node.value, ast.Name) and node.value.id == "self"  # an attribute of zofo's own
                allowed = path in ADAPTER_MODULES
                assert on_self or allowed, (
                    f"{path}:{node.lineno} reads {node.attr}, which belongs in {HIDDEN[node.attr]}"
                )


def test_no_call_is_chosen_by_a_signature_or_an_old_name() -> None:
    """`inspect.signature` knows a name and not what is done with it; the cache's name has changed once. A reward is the
    user's own function, whose arguments are what the page says of them."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                own = str(path).endswith("data/rewards.py")
                assert own or node.attr not in ("signature", "getfullargspec"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and path not in ADAPTER_MODULES:
                assert node.arg not in ("past_key_values", "cache_params"), f"{path}:{node.lineno}"


def test_the_modules_of_the_table_exist() -> None:
    assert all((ROOT / home).is_file() for home in ADAPTER_MODULES)
