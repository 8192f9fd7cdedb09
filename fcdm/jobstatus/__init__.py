"""`python -m fcdm.status`: what became of every run and budget."""
