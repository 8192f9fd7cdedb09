"""hydra/launcher=plan: what a study costs, before anything starts."""
