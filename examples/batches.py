# %% [markdown]
"""# How much do batches of dye differ?

Of each of six batches of an intermediate product five samples were made into dye, which was weighed (Davies & Goldsmith
1972). Samples of one batch differ, and batches differ. **By how much, and which batch is better than which?** A batch
has an effect of its own, which is a normal latent: EM integrates it, and estimates its scale.

Draws of the effects go to [ArviZ](https://python.arviz.org), which has a plot for them: one exact chain, with the
batches as a dimension. An effect lies nearer to zero than the mean of its batch's samples, the cross, because five
samples tell only so much.
"""

# %%
import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from em_pyro.models.data import load
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, to_inference_data
from em_pyro.plotting import COLOURS

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its import announces its next version, once a day
        import arviz as az
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("This example needs ArviZ: pip install 'em-pyro[examples]'") from missing
if int(az.__version__.split(".")[0]) > 0:
    raise ModuleNotFoundError("This example draws by ArviZ 0: pip install 'em-pyro[examples]'")

torch.set_default_dtype(torch.float64)
table = load("dyestuff")
names = sorted(set(table["batch"]))
grams = torch.tensor(table["grams"], dtype=torch.float64)
batch = torch.tensor([names.index(name) for name in table["batch"]])


def dye(grams: Tensor, batch: Tensor) -> None:
    """Give every batch an effect of its own, and every sample some noise."""
    mean = pyro.param("mean", grams.mean())
    between = pyro.param("between", torch.tensor(50.0), constraint=constraints.positive)
    within = pyro.param("within", torch.tensor(50.0), constraint=constraints.positive)
    with pyro.plate("batches", len(names)):
        effect = pyro.sample("effect", dist.Normal(0.0, between))
    with pyro.plate("samples", len(grams)):
        pyro.sample("grams", dist.Normal(mean + effect[batch], within), obs=grams)


fit = EM(dye, tol=1e-12).fit(grams, batch)
print(fit)

# %%
data = to_inference_data(fit, draws=4000, coords={"batches": names})
print(data)
print(data.constant_data)

better = float((data.posterior.effect.sel(batches="E") > data.posterior.effect.sel(batches="C")).mean())
print(f"batch E is better than batch C with probability {better:.2f}")

# %%
figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
az.plot_forest(data, var_names="effect", combined=True, hdi_prob=0.95, colors=COLOURS[0], ax=ax)
own = torch.stack([grams[batch == k].mean() for k in range(len(names))]) - fit.params["mean"]
heights = sorted(ax.get_yticks(), reverse=True)  # from the first batch, on top, to the last
ax.plot(own, heights, "x", color=COLOURS[1], markersize=8, label="mean of the batch's own samples")
ax.axvline(0, color="0.8", zorder=0)
ax.set(title="", xlabel="effect of the batch (grams of dye), with 95 % of its draws", ylabel="batch")
ax.set_yticks(heights, names)
ax.tick_params(labelsize="medium")
ax.xaxis.label.set_size("medium")
ax.legend(frameon=False)
plt.show()

# %% Bates (2010) prints 37.260 and 49.510 for the scales; the mean of the draws is that of the exact posterior.
assert abs(float(fit.params["between"]) - 37.260) < 5e-4
assert abs(float(fit.params["within"]) - 49.510) < 5e-4
law, drawn = fit.posterior.marginal("effect"), torch.tensor(data.posterior["effect"].values[0])
assert bool(((drawn.mean(0) - law.mean).abs() < 5 * law.stddev / 4000**0.5).all())
