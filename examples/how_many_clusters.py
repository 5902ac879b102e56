# %% [markdown]
"""# How many clusters are there?

Give a mixture more components than it needs, and a prior that would rather have few: weights by breaking a stick, as in
a Dirichlet process. Variational Bayes has a law for every parameter, pays for each component in the evidence, and
empties those that do not pay. **How many are left?**

Eruptions of Old Faithful (Azzalini & Bowman 1990), and velocities of 82 galaxies in the Corona Borealis region (Roeder
1990, *Density estimation with confidence sets exemplified by superclusters and voids in the galaxies*, JASA 85).

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

# %% [markdown]
# A component is there if more than one row is expected in it. The others have the law that their prior gave them.

# %%
rows = [fit.posterior.marginal("component").sum(0) for fit in (eruptions, velocities)]
there = [count > 1 for count in rows]
for name, fit, count, some in zip(("eruptions", "galaxies"), (eruptions, velocities), rows, there, strict=True):
    sizes = ", ".join(f"{n:.1f}" for n in sorted(count[some].tolist(), reverse=True))
    print(f"{name}: {int(some.sum())} of {K} components, of {sizes} rows; evidence at least {fit.elbo:.2f} nats")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
law, some = eruptions.laws["loc", "scale_tril"], there[0]
ellipses(x, eruptions.posterior.marginal("component")[:, some], law.mean[some], law.covariance[some], left)
left.set(xlabel="eruption (minutes)", ylabel="wait for the next (minutes)", title=f"Two of {K}")
left.legend(loc="lower right", frameon=False)
found = {name: value[there[1]] for name, value in velocities.params.items()}
mixture_curves(galaxies, [found], right)
right.set(xlabel="velocity (1000 km/s)", title=f"{int(there[1].sum())} of {K}")
plt.show()

# %% [markdown]
# The bound on the evidence never falls, and no component can run off onto one row: its law would have to leave the
# prior.

# %%
assert eruptions.converged
assert velocities.converged
for fit in (eruptions, velocities):
    assert all(after >= before - 1e-9 for before, after in zip(fit.path, fit.path[1:], strict=False))
assert int(there[0].sum()) == 2
assert 3 <= int(there[1].sum()) <= 6
