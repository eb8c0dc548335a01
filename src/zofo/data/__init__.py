"""Tasks: a .yaml file here is a name on the command line; rows of data become `Example`s. No torch."""

from zofo.data.example import Decoding, Example, TaskData, split_levels
from zofo.data.task import load_task

__all__ = ["Decoding", "Example", "TaskData", "load_task", "split_levels"]
