"""A run's folder: who may write in it, its records, and how files get there whole. Torch-free."""
