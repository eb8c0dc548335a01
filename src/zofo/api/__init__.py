"""What the command line does, as functions: train, evaluate, generate, export, predict memory, meta-test."""
