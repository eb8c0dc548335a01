"""Estimators: an objective and a seed -> a zeroth-order gradient. One file an estimator; its name is the file's."""
