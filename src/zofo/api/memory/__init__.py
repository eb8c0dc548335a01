"""The bytes and the seconds that a run would take, predicted or measured."""
