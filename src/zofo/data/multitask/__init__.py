"""Many tasks: settings, their rows, and batches that mix them."""
