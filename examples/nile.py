# %% [markdown]
"""# When did the Nile become a smaller river?

The flow of the Nile at Aswan, year by year from 1871 to 1970. It goes up and down, and it is lower at the end than at
the beginning. **How much of that is the river, how much the year, and when did it change?** A local level model says
that the river has a level that drifts, and a year adds its own noise (Durbin & Koopman 2012, chapter 2; EM by Shumway &
Stoffer 1982). It is a loop in Pyro, with one normal latent a year and two scales to be estimated.

Then twenty years are hidden, twice, as Durbin & Koopman do in section 2.7: the level is inferred through the gaps, and
the band shows what is not known there.

Data: `load("nile")`, Cobb (1978).
"""

# %%
import matplotlib.pyplot as plt
import pyro
import torch
from em_pyro.models import state_space
from em_pyro.models.data import load
from torch import Tensor

from em_pyro import EM, Fit
from em_pyro.plotting import COLOURS

torch.set_default_dtype(torch.float64)
table = load("nile")
year, flow = table["year"], torch.tensor(table["flow"], dtype=torch.float64)

em = EM(state_space.local_level)
print(em.plan(flow))
fit = em.fit(flow)
print(fit)
print(f"variances: level {fit.params['level'] ** 2:.0f}, noise {fit.params['noise'] ** 2:.0f}")

# %%
pyro.clear_param_store()
seen = torch.ones(len(flow), dtype=torch.bool)
seen[20:40] = seen[60:80] = False
gaps = EM(state_space.local_level).fit(flow, seen)
print(gaps)


def smoothed(fit: Fit) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the level in every year, given all years."""
    laws = [fit.posterior.marginal(f"level_{t}") for t in range(len(flow))]
    return torch.stack([law.mean for law in laws]), torch.stack([law.stddev for law in laws])


# %%
figure, axes = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True, sharey=True, layout="constrained")
for ax, one, shown, title in (
    (axes[0], fit, torch.ones_like(seen), "The level of the Nile, given all years"),
    (axes[1], gaps, seen, "The same, two times twenty years hidden"),
):
    mean, sd = smoothed(one)
    ax.plot(year[shown], flow[shown], "o", color="black", markersize=3, label="flow")
    if not shown.all():
        ax.plot(year[~shown], flow[~shown], "o", color="0.7", markersize=3, label="hidden")
    ax.plot(year, mean, color=COLOURS[0], label="level")
    low, high = mean - 1.645 * sd, mean + 1.645 * sd
    ax.fill_between(year, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="90% of the level")
    ax.axvline(1898.5, color=COLOURS[1], linestyle="--", linewidth=1)
    ax.set(title=title, ylabel="flow ($10^8$ m³ a year)", ylim=(400, 1500))
    ax.legend(frameon=False, ncols=4, loc="upper right")
axes[0].annotate("dam begun at Aswan", (1897.5, 450), color=COLOURS[1], horizontalalignment="right")
axes[1].set(xlabel="year", xlim=(1870, 1971))
plt.show()

# %% [markdown]
# The variances are those of the textbook, 15,099 and 1,469.1, and the log-likelihood is its diffuse one. The level
# falls most in the years around 1899. Inside a gap the band widens to the middle, and it is as narrow as before at
# the ends.

# %%
mean, sd = smoothed(fit)
wide = smoothed(gaps)[1]
steepest = int(year[int((mean[3:] - mean[:-3]).argmin())])
print("steepest fall: the three years from", steepest)
assert fit.converged
assert gaps.converged
assert abs(fit.log_likelihood + 632.5456) < 1e-4
assert abs(float(fit.params["noise"]) ** 2 - 15099) < 15
assert abs(float(fit.params["level"]) ** 2 - 1469.1) < 5
assert 1895 <= steepest <= 1899
assert wide[30] > 1.5 * wide[45]
assert wide[30] > wide[21]
