"""One self-contained HTML file of runs: what was run, its numbers, curves, movement of theta, predictions."""
