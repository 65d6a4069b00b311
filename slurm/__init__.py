"""Slurm: will submit callables to a cluster through submitit; knows nothing of learning."""
