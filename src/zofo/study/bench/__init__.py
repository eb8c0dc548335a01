"""The leaderboard: contenders at equal forwards and equal trials, and what anyone adds (docs/leaderboard.md)."""
