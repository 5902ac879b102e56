"""Log evidence and expected statistics at given parameters."""
