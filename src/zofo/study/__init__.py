"""Many runs: their results beside each other, plans of runs, reports, and what a run's gradient can still give."""
