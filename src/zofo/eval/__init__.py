"""A model on examples: scores of options, generated texts, metrics."""
