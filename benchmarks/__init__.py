"""Speed and memory beside named rivals. Each module is a command: python -m benchmarks.step --help."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it, before torch is imported
