# %% [markdown]
"""# Does Old Faithful erupt in two ways?

The geyser's eruptions last two minutes or four and a half, and after a short one the wait for the next is short. Fit
two Gaussian clouds of any shape. **Which eruption belongs to which kind, and which could be either?**

272 eruptions: Azzalini & Bowman (1990), *A look at some data on the Old Faithful geyser*, Applied Statistics 39.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.data import load
from em_pyro.models.gaussian_mixture import full

from em_pyro import EM
from em_pyro.plotting import COLOURS, ellipses

data = load("faithful")
x = torch.tensor(np.stack([data["eruptions"], data["waiting"]], -1), dtype=torch.float64)

em = EM(full)
print(em.plan(x), end="\n\n")
fit = em.fit(x)
print(fit)

# %% [markdown]
# The posterior of the site `component` is soft: a point between the clouds belongs a little to both. `mode()` is the
# hard assignment.

# %%
share = fit.posterior.marginal("component")
hard = fit.posterior.mode()["component"]
doubtful = share.amax(-1) < 0.99
print(f"\n{int((hard == 0).sum())} short eruptions, {int((hard == 1).sum())} long ones, {int(doubtful.sum())} doubtful")

covariance = fit.params["scale_tril"] @ fit.params["scale_tril"].mT
figure, (soft, assigned) = plt.subplots(1, 2, figsize=(8, 4.2), sharey=True, layout="constrained")
ellipses(x, share, fit.params["loc"], covariance, soft)
soft.scatter(*x[doubtful].T, s=90, facecolors="none", edgecolors="black", label="could be either")
soft.set(xlabel="eruption (minutes)", ylabel="wait for the next (minutes)", title="Responsibilities")
soft.legend(loc="lower right", frameon=False, fontsize=9)
for k, (name, mark) in enumerate((("short", "o"), ("long", "^"))):
    assigned.scatter(*x[hard == k].T, s=20, marker=mark, color=COLOURS[k], label=f"{name}: {int((hard == k).sum())}")
assigned.set(xlabel="eruption (minutes)", title="Hard assignment")
assigned.legend(loc="lower right", frameon=False)
plt.show()

# %% [markdown]
# R's mclust (model VVV, two components) prints a log-likelihood of -1130.264. Few eruptions are doubtful, all between
# the clouds.

# %%
assert fit.converged
assert round(fit.log_likelihood, 3) == -1130.264
assert torch.equal(hard, share.argmax(-1))
assert 0 < int(doubtful.sum()) < 10
assert bool((x[doubtful, 0] > fit.params["loc"][0, 0]).all())
assert bool((x[doubtful, 0] < fit.params["loc"][1, 0]).all())
