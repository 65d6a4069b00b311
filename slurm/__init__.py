"""Slurm: submits callables to a cluster through submitit; knows nothing of learning."""
