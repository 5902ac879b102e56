"""Chains of latents as units of the E-step: `pyro.markov` loops and `dist.DiscreteHMM`."""
