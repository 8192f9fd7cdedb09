"""The report of a study, as HTML and LaTeX."""
