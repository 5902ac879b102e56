# %% [markdown]
"""# How many components?

A mixture with one component more always fits better. **Which number, and which shape, do the data ask for?** Three data
sets, each fitted with several numbers from split and from random starts: eruptions of Old Faithful, velocities of 82
galaxies, and answers of 300 people to six questions.

Old Faithful: Azzalini & Bowman (1990), *Applied Statistics* 39. Galaxies: Roeder (1990), *Journal of the American
Statistical Association* 85. The answers are drawn from three classes.
"""

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.data import load
from em_pyro.models.gaussian_mixture import diagonal, full, spherical, tied, univariate
from em_pyro.models.latent_classes import latent_classes, simulate

from em_pyro import bootstrap_lrt, cross_validate, select
from em_pyro.plotting import criteria

# %% [markdown]
# Shapes as mclust names them: own covariances (VVV), a common one (EEE), independent coordinates (VVI, EEI), round
# (EII). A variant is a row of the table.


# %%
def shapes(K: int) -> dict[str, object]:
    """Return a mixture of `K` normals for each shape of their covariances."""
    return {
        "VVV": partial(full, K=K),
        "EEE": partial(tied, K=K),
        "VVI": partial(diagonal, K=K),
        "EEI": partial(diagonal, K=K, tied=True),
        "EII": partial(spherical, K=K, tied=True),
    }


data = load("faithful")
x = torch.tensor(np.stack([data["eruptions"], data["waiting"]], -1), dtype=torch.float64)
eruptions = select(shapes, range(1, 4), x, starts=3)
print(eruptions)

# %%
velocities = torch.tensor(load("galaxies")["x"], dtype=torch.float64)
galaxies = select(lambda K: partial(univariate, K=K, tied=True), range(1, 7), velocities, starts=3)
print(galaxies)

# %%
answers, *_ = simulate(n=300, categories=(2, 3, 3, 4, 3, 2), K=3)
people = select(lambda K: partial(latent_classes, K=K), range(1, 5), answers, starts=3)
print(people)

# %% [markdown]
# Two other ways to ask. The likelihood ratio of two against one round cloud, beside those of data drawn from one; and
# how well rows are predicted that a fit has not seen.

# %%
ratio = bootstrap_lrt(*(partial(spherical, K=K, tied=True) for K in (1, 2)), x, draws=9, max_steps=50)
print(ratio)
held_out = {K: float(cross_validate(partial(full, K=K), x, plate="points")) for K in (1, 2, 3)}
print(held_out)

figure, panels = plt.subplots(1, 3, figsize=(8, 3.4), layout="constrained")
for ax, selection, title in zip(
    panels, (eruptions, galaxies, people), ("Old Faithful", "Galaxies", "Answers"), strict=True
):
    criteria(selection, ax)
    ax.set(title=title, xlabel="number of components", ylabel="")
    ax.legend(frameon=False, fontsize=8)
panels[0].set(ylabel="BIC (smaller is better)")
panels[0].legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.4))
plt.show()

# %% [markdown]
# mclust finds three components of equal shape for Old Faithful (BIC 2314.3), with VVV 2 not far behind. ICL, which
# charges for eruptions that could belong to several, chooses two. The third VVV component is a sliver: `!`.

# %%
assert eruptions.best_value == (3, "EEE")
assert abs(eruptions.best.bic - 2314.296) < 0.01
assert eruptions.by("icl").best_value == (2, "VVV")
assert people.best_value == 3
assert galaxies.best_value in (3, 4, 5, 6)
assert ratio.p_value == 0.1
assert max(held_out, key=held_out.__getitem__) == 2
