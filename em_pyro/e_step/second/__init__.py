"""Second-order sums: how the scores of rows vary over the states of their latents, and from row to row."""
