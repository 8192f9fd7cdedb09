"""Floor 4: from a command line to jobs, and jobs to processes. Torch-free: only a job's own process loads torch."""
