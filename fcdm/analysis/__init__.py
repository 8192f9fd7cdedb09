"""From records to the tables and figures of a paper. Imports nothing of the engine."""
