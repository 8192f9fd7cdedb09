"""Floor 0: the typed configuration and its checks. Imports no torch, so that errors and --help are instant."""
