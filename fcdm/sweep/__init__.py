"""Hydra's side: from a command line to composed, checked configurations, and the launchers as Hydra sees them."""
