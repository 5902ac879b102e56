"""Which rows and which sets of latents are alike: steps of a loop, connected components, kinds of unequal length."""
