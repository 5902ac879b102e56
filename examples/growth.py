# %% [markdown]
"""# How fast does this child grow?

Twenty-seven children, measured at 8, 10, 12 and 14 years: the distance from the pituitary gland to a fissure in the
upper jaw (Potthoff & Roy 1964). Four points with a measurement error of more than a millimetre make a poor line.
**What is known of a child's growth, if the others are known too?** With a line of its own for each child, drawn from a
population of lines, a poor line borrows from the others (Laird & Ware 1982): random intercepts and slopes, with any
covariance.

In Pyro the lines are a `MultivariateNormal` latent in a plate of children; EM integrates them exactly. Of half of the
children the last measurement is hidden, to see whether the lines foretell it.

Data: `load("growth")`.
"""

# %%
import matplotlib.pyplot as plt
import torch
from em_pyro.models import random_effects
from em_pyro.models.data import load

from em_pyro import EM
from em_pyro.plotting import COLOURS

torch.set_default_dtype(torch.float64)
table = load("growth")
child, boy = torch.tensor(table["child"]), torch.tensor(table["sex"] == "boy")
age, distance = torch.tensor(table["age"], dtype=torch.float64), torch.tensor(table["distance"])
hidden = (age == 14) & (child % 2 == 0)

# In common: a line of the girls, and what the boys have more. To each child: a line around that, from 11 years.
line = torch.stack([torch.ones_like(age), age - 11], -1)
common = torch.cat([line, line * boy[:, None]], -1)

em = EM(random_effects.slopes)
args = distance[~hidden], common[~hidden], child[~hidden], line[~hidden]
print(em.plan(*args))
fit = em.fit(*args)
print(fit)

# %% [markdown]
# Three lines of each child: by least squares through its own points, by what is common to all children of its sex, and
# by both, from the posterior of the child's own effect.

# %%
effect = fit.posterior.marginal("effect")
coef, within = fit.params["coef"], fit.params["within"]
mean = common @ coef + (line * effect.mean[child]).sum(-1)
sd = torch.einsum("np,npq,nq->n", line, effect.covariance_matrix[child], line).sqrt()
alone = torch.stack([
    line[child == k] @ torch.linalg.lstsq(line[~hidden & (child == k)], distance[~hidden & (child == k)]).solution
    for k in child.unique()
]).reshape(-1)  # rows are in the order of the children


def error(forecast: torch.Tensor) -> float:
    """Root mean square error of what was hidden (mm)."""
    return float((forecast - distance)[hidden].square().mean().sqrt())


errors = {"own points only": error(alone), "all children alike": error(common @ coef), "both": error(mean)}
for name, mm in errors.items():
    print(f"{name}: wrong by {mm:.2f} mm at 14 years")

# %%
# Children whose last measurement was hidden, and whose own three points lead furthest from the others' lines.
chosen = child[hidden][(alone - mean)[hidden].abs().argsort(descending=True)[:6]].sort().values
figure, axes = plt.subplots(2, 3, figsize=(8, 5.8), sharex=True, sharey=True, layout="constrained")
for ax, k in zip(axes.flat, chosen.tolist(), strict=True):
    rows = child == k
    a, known = age[rows], ~hidden[rows]
    low, high = (mean + sign * 1.645 * (sd**2 + within**2).sqrt() for sign in (-1, 1))
    ax.fill_between(a, low[rows], high[rows], color=COLOURS[0], alpha=0.2, linewidth=0, label="90%")
    ax.plot(a, alone[rows], color=COLOURS[1], linestyle=":", linewidth=1.8, label="own points only")
    ax.plot(a, (common @ coef)[rows], color="0.5", linestyle="--", label="all of its sex")
    ax.plot(a, mean[rows], color=COLOURS[0], linewidth=1.8, label="both")
    ax.plot(a[known], distance[rows][known], "o", color="black", markersize=5, label="measured")
    ax.plot(a[~known], distance[rows][~known], "o", color="black", mfc="white", markersize=5, label="hidden")
    ax.set(title=f"{'boy' if boy[rows][0] else 'girl'} {k}", xticks=(8, 10, 12, 14))
figure.supxlabel("age (years)")
figure.supylabel("distance (mm)")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
plt.show()

# %% [markdown]
# A line through a child's three points foretells the fourth to 1.5 mm, the line of all children to 2 mm, and both
# together to 1.2 mm. Nine intervals in ten should hold what was hidden.

# %%
inside = ((distance - mean).abs() < 1.645 * (sd**2 + within**2).sqrt())[hidden].double().mean()
print(f"inside of their 90% intervals: {100 * inside:.0f}% of {int(hidden.sum())}")
assert fit.converged
assert errors["both"] < 0.9 * min(errors["all children alike"], errors["own points only"])
assert inside > 0.75
