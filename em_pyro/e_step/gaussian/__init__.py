"""Continuous latents that are jointly Gaussian given parameters and discrete latents, summed out exactly."""
