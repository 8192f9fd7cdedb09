"""Step ratios, intervals, laws: pure functions on arrays and tables."""
