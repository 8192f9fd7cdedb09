"""The ledger of forecasts: what was foretold of which run, before it was there, and how it came out."""
