"""hydra/launcher=submitit_slurm, and what a job does on SLURM."""
