"""The engine: checkpoints, the training loop, sampling and evaluation. Knows nothing of MLflow or SLURM."""
