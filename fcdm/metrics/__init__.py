"""What samples are judged by. Pure numpy and torch: no files, no configuration."""
