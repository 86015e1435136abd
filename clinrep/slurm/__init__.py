"""Grids of runs on Slurm or on one machine, by submitit: python -m clinrep.slurm.

What a job asks for and how it starts stands in slurm/<stage>.sbatch alone; here it is read from there.
"""
