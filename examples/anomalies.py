# %% [markdown]
"""# Which points do not belong?

Learn what is usual from usual points alone, then ask of every new point how probable it is. **Where should the line
be drawn, and what does it catch?** The line is the level below which one usual point in twenty falls, among points
that the fit has not seen; on those it has seen, the likelihood would flatter itself.

Data: 569 tumours, 357 benign and 212 malignant (Street, Wolberg & Mangasarian, 1993; UCI Machine Learning Repository,
CC BY 4.0), as bundled with scikit-learn. Usual is benign; no malignant tumour is used to fit or to draw the line. The
pair of features was chosen among nine with the malignant tumours in sight, so the share caught is a little flattered.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from em_pyro.models.gaussian_mixture import full

from em_pyro import EM
from em_pyro.plotting import COLOURS

try:
    from sklearn.datasets import load_breast_cancer
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("This example needs scikit-learn: pip install 'em-pyro[examples]'") from missing

data = load_breast_cancer()
columns = [list(data.feature_names).index(name) for name in ("worst radius", "worst concavity")]
x = torch.tensor(data.data[:, columns], dtype=torch.float64)
benign, malignant = x[data.target == 1], x[data.target == 0]
benign = benign[torch.randperm(len(benign), generator=torch.Generator().manual_seed(0))]
train, held_out, test = benign[:160], benign[160:260], benign[260:]

# %% [markdown]
# How many components? As many as make the held-out tumours most probable. The evidence of every row is asked of the
# posterior; rows that the fit has not seen are passed to `posterior_on`.

# %%
fits = {}
for components in (1, 2, 3, 4):
    with pyro.get_param_store().scope():  # a store that is filled is a start, here of another number of components
        fits[components] = EM(full, starts=4, tol=1e-6).fit(train, components)


def log_density(points: torch.Tensor, K: int) -> torch.Tensor:
    """Log density of each point under the mixture of `K`, shape `(N,)`."""
    return fits[K].posterior_on(points, K).log_evidence_by("points")


scores = {K: float(log_density(held_out, K).mean()) for K in fits}
K = max(scores, key=lambda k: scores[k])
print("held-out log density by number of components:", {k: round(v, 3) for k, v in scores.items()}, "->", K)
print(fits[K])
threshold = float(log_density(held_out, K).quantile(0.05))
alarms = float((log_density(test, K) < threshold).double().mean())
caught = float((log_density(malignant, K) < threshold).double().mean())
print(f"\nfalse alarms among {len(test)} new benign tumours: {alarms:.0%}; malignant tumours caught: {caught:.0%}")

# %%
figure, (plane, levels) = plt.subplots(1, 2, figsize=(8, 4.2), width_ratios=(3, 2), layout="constrained")
pad = 0.04 * (x.amax(0) - x.amin(0))
across, up = (np.linspace(float(a), float(b), 120) for a, b in zip(x.amin(0) - pad, x.amax(0) + pad, strict=True))
grid = torch.tensor(np.stack(np.meshgrid(across, up), -1).reshape(-1, 2))
density = log_density(grid, K).reshape(120, 120).numpy()
plane.contour(across, up, density, levels=[threshold - 8, threshold - 4], colors="0.75", linewidths=0.8, linestyles="-")
plane.contour(across, up, density, levels=[threshold], colors="black", linewidths=1.6, linestyles="-")
sets = (("benign, new", test, "o"), ("malignant", malignant, "^"))
for colour, (name, points, mark) in zip(COLOURS, sets, strict=False):
    plane.scatter(*points.T, s=16, marker=mark, color=colour, alpha=0.6, linewidths=0, label=name)
    score = log_density(points, K).clamp(min=threshold - 20)
    bins = np.linspace(threshold - 20, threshold + 8, 29)
    levels.hist(score, bins=bins, density=True, color=colour, alpha=0.55, label=name)
plane.set(
    xlabel="mean radius of the three largest nuclei",
    ylabel="concavity of the three most indented",
    title="Black: the line",
)
plane.legend(frameon=False, loc="upper right")
levels.axvline(threshold, color="black")
levels.set(xlabel="log density (nats)", ylabel="density of tumours", title="Least likely to the left")
levels.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# One new benign tumour in twenty was to fall below the line, within what chance does to a hundred; at least four
# malignant ones in five do.

# %%
assert K > 1
assert alarms < 0.12
assert caught > 0.8
assert caught > 5 * alarms
