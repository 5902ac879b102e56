# %% [markdown]
"""# How sure are we?

A maximum of the likelihood is one number for each parameter. **How far off may it be, and what do the data not say at
all?** EM itself never forms a second derivative, so it was long said to have no standard errors. But the score of
what was observed is the slope of `Q` (Fisher's identity), and its Jacobian is the information (Oakes 1999):
`fit.information()`.

Three cases. Genetic linkage, where Dempster, Laird & Rubin (1977) and Louis (1982) print the answer. Deaths in *The
Times*, on which EM needs thousands of steps: the same number says why, and how unsure the answer is. And a test of five
questions, where what is asked for, a question's difficulty, is a function of what was fitted.

Data: `load("linkage")`, `load("london_deaths")`; answers of 2,000 people are simulated, so that the truth is known.
"""

# %%
import matplotlib.pyplot as plt
import torch
from em_pyro.models import genetic_linkage, item_response, poisson_mixture
from em_pyro.models.data import load

from em_pyro import EM
from em_pyro.plotting import COLOURS, intervals

torch.set_default_dtype(torch.float64)


def expanded(counts: list[int]) -> torch.Tensor:
    """Return 0, 1, 2, ... as often as counted."""
    return torch.arange(len(counts)).repeat_interleave(torch.as_tensor(counts))


# %% [markdown]
# ## 197 animals in four cells

# %%
fit = EM(genetic_linkage.five_cells).fit(expanded(load("linkage")["count"]))
linkage = fit.information()
print(linkage)
complete = fit.information("complete")
print(f"information {1 / linkage.se['p'] ** 2:.1f} in what was seen, {1 / complete.se['p'] ** 2:.1f} had all been seen")

# %% [markdown]
# What is missing, 13 %, is the rate at which EM converges: the share of an error that a step leaves.
#
# ## Deaths of women over eighty, 1,096 days of *The Times*

# %%
days = expanded(load("london_deaths")["days"])
fit = EM(poisson_mixture.poisson_mixture).fit(days.double())
deaths, robust = fit.information(), fit.information("robust")
print(deaths)
print(fit.certificate())

# %% [markdown]
# Along one direction the data say less than half a hundredth of what they would if the two kinds of days were known.
# The two rates differ all the same: their ratio, by the delta method.

# %%
ratio = deaths.function(lambda p: (p["rate"][1] / p["rate"][0]).log())
low, high = (end.exp() for end in ratio.interval)
print(f"the larger rate is {ratio.value.exp():.2f} times the smaller one (95 %: {low:.2f} to {high:.2f})")

# %% [markdown]
# ## Five questions, 2,000 people

# %%
answers = item_response.simulate(n=2000, seed=1)
fit = EM(item_response.two_parameters).fit(answers, 21)
items = fit.information()
print(items)
difficulty = items.function(lambda p: -p["intercept"] / p["slope"])
for j, (value, se) in enumerate(zip(difficulty.value, difficulty.se, strict=True)):
    print(f"question {j}: difficulty {value:5.2f}, standard error {se:.2f}")

# %% [markdown]
# Drawn with the true difficulties, which the intervals should hold in nineteen of twenty cases.

# %%
truth = -torch.linspace(-1, 2, 5) / torch.linspace(0.8, 1.6, 5)
layout = [["linkage", "questions"], ["weights", "questions"], ["rates", "questions"]]
figure, axes = plt.subplot_mosaic(layout, figsize=(8, 4.8), height_ratios=[1.2, 2, 2], layout="constrained")
intervals(linkage, ax=axes["linkage"])
exact = (15 + 53809**0.5) / 394
axes["linkage"].plot(exact, 0, "|", color=COLOURS[1], markersize=20, markeredgewidth=2, label="closed form")
axes["linkage"].legend(frameon=False, loc="upper left", fontsize="small", markerscale=0.5)
axes["linkage"].set(title="linkage", xlim=(0.4, 0.8), xlabel="probability, 95 % interval")
intervals(deaths, "weights", ax=axes["weights"])
axes["weights"].set(title="deaths: two kinds of days", xlim=(0, 1), xlabel="share of the days, 95 % interval")
intervals(deaths, "rate", ax=axes["rates"])
axes["rates"].set(xlim=(0, 4), xlabel="deaths a day, 95 % interval")
right = axes["questions"]
for j, (value, lower, upper) in enumerate(zip(difficulty.value, *difficulty.interval, strict=True)):
    right.plot([lower, upper], [j, j], color=COLOURS[0], linewidth=2.5)
    right.plot(value, j, "o", color=COLOURS[0])
right.plot(truth, range(5), "|", color=COLOURS[1], markersize=20, markeredgewidth=2, label="truth")
right.legend(frameon=False, loc="lower right", fontsize="small", markerscale=0.5)
right.set(title="questions", xlabel="difficulty (abilities have scale 1),\n95 % interval", ylim=(4.5, -0.5))
right.set_yticks(range(5), [f"question {j}" for j in range(5)])
right.grid(axis="x", alpha=0.3)
plt.show()

# What was claimed: Louis' numbers, to the digits printed; a direction of which little is seen; and intervals that hold.
assert round(float(linkage.se["p"]), 3) == 0.051
assert round(float(1 / linkage.se["p"] ** 2), 1) == 377.5
assert round(float(1 / complete.se["p"] ** 2), 1) == 435.3
assert abs(1 - 377.5169 / 435.3179 - linkage.rate) < 1e-6
assert 0.995 < deaths.rate < 0.996
assert deaths.rank == deaths.dimension == 3
assert robust.se["rate"].shape == deaths.se["rate"].shape
assert low > 1
assert bool(((difficulty.interval.lower < truth) & (truth < difficulty.interval.upper)).all())
