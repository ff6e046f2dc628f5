"""One command, many runs: checks, plan, local processes, SLURM, progress. Imports no torch."""
