"""The exact posterior of the latents, and what follows from it."""
