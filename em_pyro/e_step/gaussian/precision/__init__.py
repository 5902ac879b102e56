"""The precision matrix of a component's latents, factored: whole, as a chain of blocks, or by orthogonal rows."""
