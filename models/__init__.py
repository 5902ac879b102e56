"""The zoo: latent-variable models from the literature, one plain Pyro function (or a small family) to a file.

Read a file to learn the model: its plate diagram, its citation, its data and what is expected in closed form. Every
model takes its data first; every file has a `simulate` that returns the data arguments of its model and moves no global
generator. Initial values are deterministic and differ between components.

Where rows repeat, as in a table of counts, either repeat them (`torch.repeat_interleave`) or weight them:
`pyro.poutine.scale(model, scale=counts)` is the same model with row `n` present `counts[n]` times.
"""
