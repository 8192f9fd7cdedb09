"""What samples are evaluated by. Pure numpy and torch: no files, no configuration."""
