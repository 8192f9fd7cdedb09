"""From records to the tables and figures of a paper. Reads `runs/` or an MLflow store; imports nothing of the engine."""
