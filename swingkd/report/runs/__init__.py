"""Cards of runs: one kind of run a file."""
