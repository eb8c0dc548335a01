"""What is minimised: a file here is an objective; `_loss` evaluates it on batches."""

from zofo.objectives._base import Objective
from zofo.objectives.lm import LM
from zofo.objectives.options import Options

OBJECTIVES: dict[str, Objective] = {"lm": LM(), "options": Options()}
