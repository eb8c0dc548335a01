"""Adapters: the small set of weights that first-order updates train. One file an adapter; its name is the file's."""
