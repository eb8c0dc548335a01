"""Every CPU kernel compiled ahead: `python -m zofo.zo.kernels.ahead`, which an installation runs once.

What numba compiles it keeps on disk, so that the first step of the first run does not wait some twenty seconds for it,
nor each process where the installation cannot be written later.
"""

from __future__ import annotations

import numpy as np
import torch

from zofo.zo.kernels import basis, counting, cpu
from zofo.zo.kernels.compiled import GROUP

TERMS = [(1, 0.5)]


def compile_all() -> None:
    """A call of each kernel for each pattern of bits that it takes, on a few numbers. Seconds once; then nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))  # the loops for several threads too, whatever this process may use
    try:
        for dtype in (torch.float32, torch.bfloat16):  # fp16 has bf16's width, and its code
            few, many = torch.zeros(2, GROUP, dtype=dtype), torch.zeros(cpu.SERIAL + 1, dtype=dtype)
            cpu.add(few, few, TERMS, 0)
            cpu.add(many, many, TERMS, 0)
            cpu.add_series(few, None, [(TERMS, 1)], 0)
            cpu.add_series(many, None, [(TERMS, 1)], 0)
            cpu.add_rows(few[:1], few, torch.tensor([1]), TERMS, 0)
    finally:
        torch.set_num_threads(threads)
    cpu.sum_squares(1, 1, 0)
    cpu.noise(1, 1, 0)
    basis.gram_schmidt(np.eye(2))
    counting.count(np.zeros(1, np.int32), -1, np.zeros(1 << 16, np.int64))


if __name__ == "__main__":
    compile_all()
