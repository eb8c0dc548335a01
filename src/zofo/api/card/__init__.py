"""Model cards: the README.md of a run and of an export, in the hub's form."""
