# %% [markdown]
"""# What if the model is my own?

Two models that are in no textbook's list. In the first, one parameter has no closed form; in the second, a neural
network says what is seen. **Does EM still climb at every step, and does it find what is hidden?**

Nothing is registered or derived. What has a closed form is found in the model; torch maximises what has none.
"""

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.plotting import COLOURS

torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(0)

# %% [markdown]
# ## One parameter for torch: two isotopes
#
# Fifty unlabelled samples, each of one of two isotopes. Each is counted for a minute at eight times of a day; a fresh
# sample gives 40 counts a minute, less by half after each half-life. The half-life enters through a power, which is
# in no table of closed forms.

# %%
hours = torch.linspace(0, 21, 8)
isotope = torch.rand(50, generator=random) < 0.4
true_half_life = torch.tensor([4.0, 7.0])
counts = torch.poisson(40 * 0.5 ** (hours / true_half_life[isotope.long(), None]), generator=random)


def decay(counts: Tensor) -> None:
    """Count each sample, shape `(N, 8)`, at all hours."""
    share = pyro.param("share", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    half_life = pyro.param("half_life", torch.tensor([3.0, 12.0]), constraint=constraints.positive)
    with pyro.plate("sample", len(counts)):
        kind = pyro.sample("kind", dist.Categorical(share))
        rate = 40 * 0.5 ** (hours / half_life[kind].unsqueeze(-1))
        pyro.sample("counts", dist.Poisson(rate).to_event(1), obs=counts)


em = EM(decay)
print(em.plan(counts), end="\n\n")
decayed = em.fit(counts)
print(decayed)

# %% [markdown]
# ## A neural network: two branches
#
# Each point is on one of two curves of unknown shape. A network of four hidden units takes `x` to the height of both
# curves. Its M-step is a guarded climb: a step that would lower the objective is not taken, and so the objective
# never falls, as SVI's may.

# %%
x = torch.rand(300, generator=random) * 6 - 3
upper = torch.rand(300, generator=random) < 0.5
truth = torch.stack([x.sin() - 1.2, 1.4 - 0.15 * x**2])
y = torch.where(upper, truth[1], truth[0]) + 0.25 * torch.randn(300, generator=random)

with torch.random.fork_rng():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
with torch.no_grad():
    network[2].bias.copy_(torch.tensor([-1.0, 1.0]))  # one curve starts low, the other high


def branches(x: Tensor, y: Tensor) -> None:
    """Put each point on one of two curves, both given by a network."""
    curves = pyro.module("curves", network)
    share = pyro.param("share", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    heights = curves(x.unsqueeze(-1))
    with pyro.plate("points", len(x)):
        branch = pyro.sample("branch", dist.Categorical(share))
        height = torch.where(branch == 0, heights[:, 0], heights[:, 1])
        pyro.sample("y", dist.Normal(height, scale), obs=y)


pyro.clear_param_store()
em = EM(branches, max_steps=10)
print(em.plan(x, y), end="\n\n")
branched = em.fit(x, y)
print(branched)

# %% [markdown]
# Left, the counts, coloured by the isotope that EM says each sample is; right, the points, coloured by branch, and
# what the network has learned. Below, the objective: it never falls.

# %%
figure, axes = plt.subplots(2, 2, figsize=(8, 6), height_ratios=(2, 1), layout="constrained")
(samples, points), climbs = axes
kind = decayed.posterior.mode()["kind"]
half_life = decayed.params["half_life"]
for k in range(2):
    samples.plot(hours, counts[kind == k].T, color=COLOURS[k], alpha=0.25, linewidth=0.8)
    samples.plot(
        hours, 40 * 0.5 ** (hours / half_life[k]), color=COLOURS[k], linewidth=2.5, label=f"{half_life[k]:.1f} h"
    )
samples.set(xlabel="hours", ylabel="counts in a minute", title="Two isotopes")
samples.legend(title="half-life", frameon=False)

branch = branched.posterior.mode()["branch"]
grid = torch.linspace(-3, 3, 200)
with torch.no_grad():
    heights = network(grid.unsqueeze(-1))
for k, mark in enumerate("o^"):
    points.scatter(x[branch == k], y[branch == k], s=14, marker=mark, color=COLOURS[k], alpha=0.5)
    points.plot(grid, heights[:, k], color=COLOURS[k], linewidth=2.5, label=f"branch {k}")
points.set(xlabel="x", ylabel="y", title="Two branches by a network")
points.legend(frameon=False)
for ax, fit in zip(climbs, (decayed, branched), strict=True):
    ax.plot(fit.path, color="black", marker="o", markersize=3)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="step", ylabel="objective (nats)")
plt.show()

# %% [markdown]
# The half-lives are found to a few per cent, from a start that was far from them; the curves to less than the noise;
# and neither objective ever fell.

# %%
assert bool(((half_life - true_half_life).abs() < 0.05 * true_half_life).all())
assert bool((kind == isotope.long()).double().mean() > 0.95)
assert decayed.plan["share"].closed_form
assert decayed.plan.torch == ("half_life",)
with torch.no_grad():
    gaps = (network(x.unsqueeze(-1)).T[:, None] - truth).square().mean(-1).sqrt()  # of each output from each curve
assert min(gaps.trace(), gaps.flip(0).trace()) / 2 < 0.25
for fit in (decayed, branched):
    assert all(after >= before - 1e-9 for before, after in zip(fit.path, fit.path[1:], strict=False))
    assert fit.path[-1] > fit.path[0] + 10
