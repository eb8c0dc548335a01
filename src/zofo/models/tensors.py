"""safetensors files, written at the disk's speed. What is read or written wrongly is an OSError or a ValueError."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes import string_at
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

PIECE = 1 << 20  # bytes: from here on a write's and a digest's own cost is nothing
# The format's names, in the order in which its tensors are stored: the wide types first, so that each is aligned
_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: number for number, dtype in enumerate(_DTYPES)}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write on the CPU, and to the disk. The same tensors give the same bytes. Returns the file's SHA-256, hexadecimal.

    The library's writer takes several times as long where there are many tensors (docs/log.md). The digest is taken
    of what is in memory while another thread writes it; there is no second copy of it. Raises OSError.
    """
    if {tensor.dtype for tensor in tensors.values()} - set(_DTYPES):  # of a newer torch: the library's own
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
        return _to_disk(path)
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    held = {name: held[name] for name in sorted(held, key=lambda name: (_ORDER[held[name].dtype], name))}
    header, draft = _header(held), path.with_name(f".{path.name}.tmp")
    try:
        # Beside the old file, whose memory these tensors may be: what is loaded is mapped
        with draft.open("wb") as file, ThreadPoolExecutor(1) as beside:
            digest = beside.submit(_sha256, header, held)
            for piece in _pieces(header, held):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    return digest.result()


def _to_disk(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Its length in 8 bytes, then JSON, which spaces bring to a multiple of 8.

    Text from the start: a dict for each of many tensors would wake the garbage collector, which takes longer.
    """
    entries, end = ['"__metadata__":{"format":"pt"}'], 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        shape = ",".join(map(str, tensor.shape))
        entries.append(
            f'{encode_basestring(name)}:{{"dtype":"{_DTYPES[tensor.dtype]}","shape":[{shape}],'
            f'"data_offsets":[{start},{end}]}}'
        )
    text = f"{{{','.join(entries)}}}".encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file's bytes in order. Small tensors are joined, large ones are where they are."""
    small, waiting = [header], len(header)
    for tensor in tensors.values():
        large = tensor.nbytes >= PIECE
        if not large:
            small.append(string_at(tensor.data_ptr(), tensor.nbytes))
            waiting += tensor.nbytes
        if small and (large or waiting >= PIECE):
            yield b"".join(small)
            small, waiting = [], 0
        if large:
            yield tensor.detach().view(-1).view(torch.uint8).numpy().data
    if small:
        yield b"".join(small)


def _sha256(header: bytes, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for piece in _pieces(header, tensors):
        total.update(piece)
    return total.hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises OSError, or ValueError where the file is no safetensors file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error


def save_cast(source: Path, path: Path, dtype: torch.dtype) -> None:
    """A copy of a file whose floating-point tensors are in another dtype, made and written one tensor at a time.

    Raises OSError, or ValueError where the source is no safetensors file.
    """
    try:
        with safe_open(source, "pt") as held:
            names = list(held.keys())
            kinds = {name: _cast(held.get_slice(name), dtype) for name in names}
            order = sorted(names, key=lambda name: (_ORDER[kinds[name].dtype], name))
            with path.open("wb") as file:
                file.write(_header({name: kinds[name] for name in order}))
                for name in order:
                    tensor = held.get_tensor(name).to(kinds[name].dtype).contiguous()
                    file.write(tensor.view(-1).view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise ValueError(f"{source}: {error}") from error


def _cast(held: Any, dtype: torch.dtype) -> Tensor:
    """A tensor without values of the shape and dtype that a copy has."""
    known = {name: kind for kind, name in _DTYPES.items()}[held.get_dtype()]
    return torch.empty(held.get_shape(), dtype=dtype if known.is_floating_point else known, device="meta")
