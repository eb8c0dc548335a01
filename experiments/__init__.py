"""Comparisons with a budget: a YAML plan, one small result file a run, resumable. See README.md here."""
