"""Promises of docs/reliability.md, each a script that can be run again: `python -m reliability.kills --help`."""
