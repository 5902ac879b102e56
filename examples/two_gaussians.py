# %% [markdown]
"""# Who is red and who is blue?

Forty points on a line, drawn from two bell curves, red and blue. With the colours, each curve's mean and spread is a
matter of averaging. **With the colours rubbed out, can both curves still be found?**

The story is that of the second notebook of github.com/ajcr/em-explanation (MIT), whose points these are: numpy draws
them as below, the same on every machine. The guesses from which EM starts are the notebook's too.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.gaussian_mixture import two_groups
from matplotlib.colors import to_rgb

from em_pyro import EM
from em_pyro.plotting import COLOURS, mixture_curves

random = np.random.RandomState(110)
red, blue = random.normal(3, 0.8, 20), random.normal(7, 2, 20)
x = torch.tensor(np.concatenate([blue, red]))

# %% [markdown]
# The guesses are bad: blue far to the right, red far to the left.

# %%
start = {"loc": torch.tensor([9.0, 1.1]), "scale": torch.tensor([1.7, 2.0])}
history = [start]
em = EM(two_groups, starts=start, max_steps=20, tol=0, callback=lambda state: history.append(state.params))
fit = em.fit(x)
print(fit)
print("\n          mean           spread")
for k, (name, points) in enumerate((("blue", blue), ("red", red))):
    loc, scale = fit.params["loc"][k], fit.params["scale"][k]
    print(f"{name:5} found {loc:5.2f}, {scale:5.2f}; with the colours {points.mean():5.2f}, {points.std():5.2f}")

# %% [markdown]
# Twenty iterations of curves, the later the stronger. Under them the points as they were before their colours were
# rubbed out, and as EM colours them: the shade is the posterior probability.

# %%
figure, (curves, strip) = plt.subplots(2, 1, figsize=(8, 5.2), sharex=True, height_ratios=(4, 1), layout="constrained")
mixture_curves(x, history, curves)
curves.set(xlabel="", title="Twenty iterations")
for line in curves.get_lines():
    line.set_label({"component 0": "blue", "component 1": "red"}.get(str(line.get_label()), str(line.get_label())))
curves.legend(frameon=False)
palette = np.array([to_rgb(colour) for colour in COLOURS[:2]])
responsibilities = fit.posterior.marginal("group").numpy()
strip.scatter(x, np.ones(40), c=np.repeat(palette, 20, axis=0), s=60, edgecolors="white")
strip.scatter(x, np.zeros(40), c=responsibilities @ palette, s=60, edgecolors="white")
strip.set(xlabel="x", yticks=(0, 1), ylim=(-0.7, 1.7))
strip.set_yticklabels(["found", "hidden"])
plt.show()

# %% [markdown]
# Each estimate lies within two standard errors of what the colours would have given; it started further away.

# %%
truth = torch.tensor([[blue.mean(), red.mean()], [blue.std(), red.std()]])
error = truth[1] / torch.tensor([[20.0], [40.0]]).sqrt()  # of a mean and of a spread
found = torch.stack([fit.params["loc"], fit.params["scale"]])
assert bool(((found - truth).abs() < 2 * error).all())
assert bool(((start["loc"] - truth[0]).abs() > 2 * error[0]).all())
assert len(history) == 21
assert all(after >= before - 1e-9 for before, after in zip(fit.path, fit.path[1:], strict=False))
