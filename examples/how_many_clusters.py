# %% [markdown]
"""# How many clusters are there?

Give a mixture more components than it needs, and a prior that would rather have few: weights by breaking a stick, as in
a Dirichlet process. Variational Bayes has a law for every parameter, pays for each component in the evidence, and
empties those that do not pay. **How many are left?**

Eruptions of Old Faithful (Azzalini & Bowman 1990), velocities of 82 galaxies in the Corona Borealis region (Roeder
1990, *Density estimation with confidence sets exemplified by superclusters and voids in the galaxies*, JASA 85), and
the colours of a painting that the script paints itself: a house, a tree and the sun over a field, on a grainy canvas.

Blei & Jordan (2006), *Variational inference for Dirichlet process mixtures*, Bayesian Analysis 1.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.data import load
from em_pyro.models.gaussian_mixture import full, univariate

from em_pyro import NormalWishart, StickBreaking, VariationalEM
from em_pyro.plotting import ellipses, mixture_curves

K = 10
data = load("faithful")
x = torch.tensor(np.stack([data["eruptions"], data["waiting"]], -1), dtype=torch.float64)
galaxies = torch.tensor(load("galaxies")["x"], dtype=torch.float64)

# %%
WIDTH, HEIGHT = 72, 48
PAINTS = torch.tensor(
    [
        [0.45, 0.65, 0.85],
        [0.35, 0.60, 0.25],
        [0.85, 0.75, 0.30],
        [0.80, 0.35, 0.25],
        [0.30, 0.20, 0.15],
        [0.15, 0.35, 0.20],
    ],
    dtype=torch.float64,
)
"""Of sky, field, sun, wall, roof and tree."""


def paint() -> tuple[torch.Tensor, torch.Tensor]:
    """A painting `(HEIGHT, WIDTH, 3)`, and which of the paints every pixel has."""
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    paint = (row > 30).long()
    paint[(row - 9) ** 2 + (column - 58) ** 2 < 36] = 2
    paint[(row > 20) & (row < 38) & (column > 10) & (column < 34)] = 3
    paint[(row > 8) & (row <= 20) & ((column - 22).abs() < row - 5)] = 4
    paint[((row - 22) / 9) ** 2 + ((column - 50) / 7) ** 2 < 1] = 5
    paint[(row > 29) & (row < 40) & ((column - 50).abs() < 2)] = 4
    grain = torch.randn((HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return PAINTS[paint] + 0.04 * grain, paint


painting, paints = paint()
pixels = painting.reshape(-1, 3)

# %% [markdown]
# The prior of a mean and its covariance says where the data lie, with the weight of a hundredth of a row or of one, and
# how wide a component may be, with the weight of three.

# %%
pair = NormalWishart(loc=x.mean(0), kappa=1.0, scale_matrix_inverse=x.mT.cov(), df=3.0)
eruptions = VariationalEM(full, {"weights": StickBreaking(1.0), ("loc", "scale_tril"): pair}, starts=5).fit(x, K)

line = NormalWishart(loc=galaxies.mean(), kappa=0.01, scale_matrix_inverse=1.0, df=3.0)
priors = {"weights": StickBreaking(1.0), ("loc", "scale"): line}
velocities = VariationalEM(univariate, priors, starts=5).fit(galaxies, K)
print(velocities)

solid = NormalWishart(loc=pixels.mean(0), kappa=0.01, scale_matrix_inverse=0.02 * pixels.mT.cov(), df=5.0)
priors = {"weights": StickBreaking(1.0), ("loc", "scale_tril"): solid}
colours = VariationalEM(full, priors, starts=5).fit(pixels, K)

# %% [markdown]
# A component is there if more than one row is expected in it. The others have the law that their prior gave them.

# %%
fits = eruptions, velocities, colours
rows = [fit.posterior.marginal("component").sum(0) for fit in fits]
there = [count > 1 for count in rows]
for name, fit, count, some in zip(("eruptions", "galaxies", "colours"), fits, rows, there, strict=True):
    sizes = ", ".join(f"{n:.1f}" for n in sorted(count[some].tolist(), reverse=True))
    print(f"{name}: {int(some.sum())} of {K} components, of {sizes} rows; evidence at least {fit.elbo:.2f} nats")

figure, ((left, right), (canvas, parts)) = plt.subplots(
    2, 2, figsize=(8, 6.6), height_ratios=(4, 2.6), layout="constrained"
)
law, some = eruptions.laws["loc", "scale_tril"], there[0]
ellipses(x, eruptions.posterior.marginal("component")[:, some], law.mean[some], law.covariance[some], left)
left.set(xlabel="eruption (minutes)", ylabel="wait for the next (minutes)", title=f"{int(there[0].sum())} of {K}")
left.legend(loc="lower right", frameon=False)
found = {name: value[there[1]] for name, value in velocities.params.items()}
mixture_curves(galaxies, [found], right)
right.set(xlabel="velocity (1000 km/s)", title=f"{int(there[1].sum())} of {K}")
part = colours.posterior.mode()["component"]
canvas.imshow(painting.clamp(0, 1).numpy())
canvas.set(title="a painting")
parts.imshow(colours.laws["loc", "scale_tril"].mean[part].reshape(HEIGHT, WIDTH, 3).clamp(0, 1).numpy())
parts.set(title=f"{int(there[2].sum())} of {K}, in their mean colours")
for ax in (canvas, parts):
    ax.set(xticks=(), yticks=(), xlabel=f"{WIDTH} pixels", ylabel=f"{HEIGHT} pixels")
plt.show()

# %% [markdown]
# The bound on the evidence never falls, and no component can run off onto one row: its law would have to leave the
# prior. Of the painting it finds how many paints there were, and which of them a pixel has.

# %%
for fit in fits:
    assert fit.converged
    assert all(after >= before - 1e-9 for before, after in zip(fit.path, fit.path[1:], strict=False))
assert int(there[0].sum()) == 2
assert 3 <= int(there[1].sum()) <= 6
assert int(there[2].sum()) == len(PAINTS)
of_each = torch.stack([torch.bincount(part[paints.flatten() == k], minlength=K) for k in range(len(PAINTS))])
assert float(of_each.amax(-1).sum()) > 0.99 * len(pixels)
