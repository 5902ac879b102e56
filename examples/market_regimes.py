# %% [markdown]
"""# Does a recession last?

The economy of the United States, quarter by quarter from 1959 to 2009. A mixture says that each quarter is drawn
afresh from one of two regimes; a hidden Markov model says that a regime lasts. **Which is right, and does the hidden
regime know the recessions that it was never told?**

Data: `statsmodels.datasets.macrodata` (public domain: Federal Reserve Economic Data and the Bureau of Labor
Statistics). The recessions, which are not used in the fits, are those dated by the National Bureau of Economic
Research. The idea is Hamilton's (1989), *A new approach to the economic analysis of nonstationary time series*,
Econometrica 57.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models import discrete_hmm, gaussian_mixture

from em_pyro import EM
from em_pyro.plotting import COLOURS

try:
    from statsmodels.datasets import macrodata
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("This example needs statsmodels: pip install 'em-pyro[examples]'") from missing

data = macrodata.load_pandas().data
year = (data["year"] + (data["quarter"] - 1) / 4).to_numpy()[1:]
growth = 400 * np.diff(np.log(data["realgdp"]))  # per cent a year
unemployment = np.diff(data["unemp"])  # points, change in the quarter
y = torch.tensor(np.stack([growth, unemployment], -1), dtype=torch.float64)

RECESSIONS = ((1960.25, 1961.0), (1969.75, 1970.75), (1973.75, 1975.0), (1980.0, 1980.5), (1981.5, 1982.75),
              (1990.5, 1991.0), (2001.0, 2001.75), (2007.75, 2009.25))  # fmt: skip
"""Quarters of peak and trough."""

# %% [markdown]
# Both models have two regimes with a mean and a standard deviation of growth and of the change in unemployment. They
# differ in the law of the regime only.

# %%
mixture = EM(gaussian_mixture.diagonal, tol=1e-7).fit(y, 2)
print(mixture)
chain = EM(discrete_hmm.gaussian, tol=1e-7, starts={k: mixture.params[k] for k in ("loc", "scale")}).fit(y[None])
print(chain)


def slump(share: torch.Tensor, loc: torch.Tensor) -> np.ndarray:
    """Probability of the regime of lower growth, shape `(T,)`."""
    return share[:, int(loc[:, 0].argmin())].numpy()


found = {
    "mixture": slump(mixture.posterior.marginal("component"), mixture.params["loc"]),
    "hidden Markov model": slump(chain.posterior.marginal("y")[0], chain.params["loc"]),
}
stay = chain.params["transition"].diagonal()
print("\nexpected length of a regime (quarters):", (1 / (1 - stay)).tolist())

# %%
figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
axes[0].plot(year, growth, color="black", linewidth=1)
axes[0].set(ylabel="growth (% a year)", title="Shaded: recessions, which the models were not told")
for ax, colour, (name, share) in zip(axes[1:], COLOURS, found.items(), strict=False):
    ax.fill_between(year, share, color=colour, alpha=0.25, linewidth=0)
    ax.plot(year, share, color=colour)
    ax.set(ylabel="P(slump)", ylim=(-0.02, 1.02), title=name)
for ax in axes:
    for begin, end in RECESSIONS:
        ax.axvspan(begin, end, color="0.85", zorder=0)
axes[-1].set(xlabel="year", xlim=(year[0], year[-1]))
plt.show()

# %% [markdown]
# Memory is worth many nats; the chain changes its mind less often; and it calls a slump in most quarters of
# recession, in few others.

# %%
inside = np.any([(year > begin) & (year <= end) for begin, end in RECESSIONS], axis=0)
switches = {name: int((np.diff(share > 0.5) != 0).sum()) for name, share in found.items()}
share = found["hidden Markov model"]
print("switches:", switches)
print(f"P(slump) in recessions {share[inside].mean():.2f}, outside {share[~inside].mean():.2f}")
assert mixture.converged
assert chain.converged
assert chain.log_likelihood > mixture.log_likelihood + 10
assert switches["hidden Markov model"] < switches["mixture"]
assert share[inside].mean() > 0.75
assert share[~inside].mean() < 0.3
