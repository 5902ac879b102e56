"""Continuous latents: which a program integrates, and what stands for them while it is read."""
