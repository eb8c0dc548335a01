"""Rules: a zeroth-order gradient -> a move of theta. One file a rule; its name is the file's."""
