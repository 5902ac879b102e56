# %% [markdown]
"""# Should I fit this model by EM or by SVI?

Where all latents are discrete, SVI with `TraceEnum_ELBO` and an empty guide has minus the exact log-likelihood as its
loss: the very function that EM climbs, by a gradient step where EM makes an exact one. So the two can be raced, from
the same starts, on the same scale. **How many passes over the data does each need, and how long do they take?**

L-BFGS, direct ascent of the same objective, runs along.
"""

# %%
import matplotlib.pyplot as plt
import pyro.optim
import torch
from em_pyro.models import coins, gaussian_mixture, latent_classes

from em_pyro.compare import compare, em, lbfgs, svi
from em_pyro.plotting import COLOURS

torch.set_default_dtype(torch.float64)

# %% [markdown]
# Three models of the literature on data drawn from them: three Gaussians in the plane; two coins, in sequences of
# unequal length; people of two kinds, who answer questions of two, two, three and four possible answers.

# %%
problems = {
    "Gaussian mixture": (gaussian_mixture.full, (gaussian_mixture.simulate(200, 2, 3), 3)),
    "coins": (coins.coins, coins.simulate()),
    "latent classes": (latent_classes.latent_classes, latent_classes.simulate()),
}
contenders = {
    "EM": em(acceleration=None),
    "EM, SQUAREM": em(acceleration="squarem"),
    "SVI, Adam 0.01": svi(pyro.optim.Adam({"lr": 0.01})),
    "SVI, Adam 0.1": svi(pyro.optim.Adam({"lr": 0.1})),
    "L-BFGS": lbfgs(),
}
races = {
    name: compare(model, args=args, contenders=contenders, starts=2, budget_seconds=20, max_steps=150)
    for name, (model, args) in problems.items()
}
for name, race in races.items():
    print(f"\n{name}\n{race}")

# %% [markdown]
# How far each still has to go to the best maximum known, one line a start; lower is better. Seconds depend on the
# machine, passes over the data do not.

# %%
FLOOR = 1e-6
figure, axes = plt.subplots(2, 3, figsize=(8, 5.6), sharey=True, layout="constrained")
for (above, below), (name, race) in zip(axes.T, races.items(), strict=True):
    for colour, style, contender in zip(COLOURS, ("-", (0, (5, 1)), "--", "-.", ":"), contenders, strict=False):
        for lane in race.of(contender):
            to_go = [max(race.best.objective - point.objective, FLOOR) for point in lane.points[1:]]
            label = contender if lane.start == 0 else None
            line = {"color": colour, "linestyle": style, "label": label}
            above.plot([point.step for point in lane.points[1:]], to_go, **line)
            below.plot([point.seconds for point in lane.points[1:]], to_go, **line)
    above.set(xscale="log", yscale="log", xlabel="passes over the data", title=name)
    below.set(xscale="log", yscale="log", xlabel="seconds")
for ax in axes[:, 0]:
    ax.set_ylabel("nats to go")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
plt.show()

# %% [markdown]
# EM comes within a thousandth of a nat on every model, from some start at least, and in fewer passes than SVI, if SVI
# gets there at all within 150.
# L-BFGS may take fewer passes to the last digits than plain EM, each dearer; SQUAREM extrapolates EM's own steps.

# %%
for name, race in races.items():
    exact = [point.step for point in race.reached("EM", 1e-3)]
    assert exact, name
    for contender in ("SVI, Adam 0.01", "SVI, Adam 0.1"):
        assert min(exact) < min((point.step for point in race.reached(contender, 1e-3)), default=151), name
