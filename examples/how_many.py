# %% [markdown]
"""# How many components?

A mixture with one component more always fits better. **Which number, and which shape, do the data ask for?** Three data
sets, each fitted with several numbers from split and from random starts: eruptions of Old Faithful, velocities of 82
galaxies, and verdicts of seven pathologists on 118 slides: carcinoma, or not?

Old Faithful: Azzalini & Bowman (1990), *Applied Statistics* 39. Galaxies: Roeder (1990), *Journal of the American
Statistical Association* 85. Carcinoma: Agresti (2002), *Categorical Data Analysis*, table 13.1.
"""

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.data import load
from em_pyro.models.gaussian_mixture import diagonal, full, spherical, tied, univariate
from em_pyro.models.latent_classes import latent_classes

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
patterns = """0000000 34  0000100  2  0100000  6  0100001 1  0100100  4  0100101  5  1000000  2  1010101 1  1100000  2
1100001  1  1100100  2  1100101  7  1100111 1  1101001  1  1101101  2  1101111  3  1110101 13  1110111 5  1111101 10
1111111 16""".split()  # the verdicts of A to G, and on how many slides they were these
kinds = torch.tensor([[int(v) for v in verdict] for verdict in patterns[::2]])
slides = kinds.repeat_interleave(torch.tensor([int(n) for n in patterns[1::2]]), 0)
verdicts = select(lambda K: partial(latent_classes, K=K), range(1, 5), slides, starts=10)
print(verdicts)

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
    panels, (eruptions, galaxies, verdicts), ("Old Faithful", "Galaxies", "Carcinoma"), strict=True
):
    criteria(selection, ax)
    ax.set(title=title, xlabel="number of components", ylabel="criterion (smaller is better)")
    ax.legend(frameon=False, fontsize=8)
panels[0].set(ylabel="BIC (smaller is better)", xlim=(0.6, 2.2), ylim=(2300, 2420))  # one component, and EII, are above
plt.show()

# %% [markdown]
# mclust finds three components of equal shape for Old Faithful (BIC 2314.3), with VVV 2 not far behind. ICL, which
# charges for eruptions that could belong to several, chooses two. The third VVV component is a sliver: `!`.
#
# Of the pathologists' verdicts Agresti reports three classes: clear cases, clear others, and slides on which they
# disagree. AIC and BIC are those of poLCA (Linzer & Lewis 2011, *Journal of Statistical Software* 42(10)).

# %%
assert eruptions.best_value == (3, "EEE")
assert abs(eruptions.best.bic - 2314.296) < 0.01
assert eruptions.by("icl").best_value == (2, "VVV")
assert verdicts.best_value == verdicts.by("aic").best_value == 3
assert [round(verdicts[K].bic, 2) for K in verdicts] == [1082.32, 706.07, 697.14, 726.46]
assert galaxies.best_value in (3, 4, 5, 6)
assert ratio.p_value == 0.1
assert max(held_out, key=held_out.__getitem__) == 2
