"""The backbone and what goes on it: loading, quantisation, adapters, and what of a model is tried before it is used."""
