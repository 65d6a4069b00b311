"""Slurm: runs callables as jobs of a cluster, through submitit; knows nothing of learning.

Slurm and submitit only start work. What is done is for the caller to say, from what the work has
left behind: jobs can vanish at any moment, and then nobody says goodbye.
"""
