"""`zofo check`: what this machine computes and at what cost, a verdict a line. A file for each kind of check."""
