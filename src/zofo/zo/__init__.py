"""Zeroth-order core: directions, the perturbed point, gradients as seeds and coefficients, the journal."""
