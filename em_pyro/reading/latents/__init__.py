"""Continuous latents that are integrated: which they are, and how they enter."""
