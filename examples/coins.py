# %% [markdown]
"""# Which coin was it?

Two coins lie in a drawer. Five times somebody takes one of them out, tosses it ten times, counts the heads and puts
it back. Nobody wrote down which coin it was. **How biased is each coin?**

If the coins had been written down we would count heads. If the biases were known we could say how probable it is that
each sequence came from either coin. EM does the two in turn. The data are those of Do & Batzoglou (2008), *What is
the expectation maximization algorithm?*, Nature Biotechnology 26, 897-899.
"""

# %%
import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from em_pyro.models.coins import equal_coins
from em_pyro.models.data import load
from torch import Tensor

from em_pyro import EM
from em_pyro.plotting import COLOURS

data = load("coins")
heads = torch.tensor(data["heads"], dtype=torch.float64)
flips = torch.tensor(data["n"], dtype=torch.float64)
start = torch.tensor([0.6, 0.5], dtype=torch.float64)

# %% [markdown]
# The model is an ordinary Pyro program: pick one of the coins (with equal probability), toss it, count. The callback
# keeps the biases at every iteration.

# %%
history = [start]
em = EM(equal_coins, starts={"bias": start}, callback=lambda state: history.append(state.params["bias"]))
print(em.plan(heads, flips), end="\n\n")
fit = em.fit(heads, flips)
print(fit)
bias = torch.stack(history)

# %% [markdown]
# The E-step by hand. Equal coins are equally probable beforehand, so that the weight of a coin for a sequence is the
# likelihood that it made these heads, divided by the sum over both coins. The M-step counts heads, each sequence
# divided between the coins by its weights.


# %%
def weights(bias: Tensor) -> Tensor:
    """Weight of each coin for each sequence, shape `(5, 2)`, at biases of shape `(2,)`."""
    return dist.Binomial(flips[:, None], bias).log_prob(heads[:, None]).softmax(-1)


def log_likelihood(bias: Tensor) -> Tensor:
    """Log-likelihood of all sequences at biases of shape `(..., 2)`."""
    each = dist.Binomial(flips[:, None], bias[..., None, :]).log_prob(heads[:, None]) - torch.log(torch.tensor(2.0))
    return each.logsumexp(-1).sum(-1)


paths = torch.stack([weights(step) for step in bias])  # (iterations, 5, 2)
shared_heads = (paths[0] * heads[:, None]).sum(0)
shared_tails = (paths[0] * (flips - heads)[:, None]).sum(0)
print("\nFirst E-step:", shared_heads, "heads and", shared_tails, "tails")

# %% [markdown]
# Why does it work? With the weights held, the expected complete log-likelihood plus the entropy of the weights is a
# lower bound of the log-likelihood (Jensen), and at the current bias it touches it. Its top is where the M-step goes.
# The log-likelihood there is at least as high as the bound, and so higher than before.


# %%
def bound(bias: Tensor, at: Tensor) -> Tensor:
    """Lower bound of the log-likelihood at biases `(..., 2)` that touches it at `at`."""
    share = weights(at)
    each = dist.Binomial(flips[:, None], bias[..., None, :]).log_prob(heads[:, None]) - torch.log(torch.tensor(2.0))
    return (share * (each - share.log())).sum((-2, -1))


figure, axes = plt.subplots(2, 2, figsize=(8, 6.6), layout="constrained")
(curves, shares), (path, why) = axes
grid = torch.linspace(0.01, 0.99, 300, dtype=torch.float64)
for n in range(len(heads)):
    likelihood = dist.Binomial(flips[n], grid).log_prob(heads[n]).exp()
    colour = COLOURS[(2, 4, 3, 5, 6)[n]]
    curves.plot(grid, likelihood, color=colour, label=f"{heads[n]:.0f} of {flips[n]:.0f}")
    shares.plot(paths[:, n, 0], color=colour, marker="o", markersize=3, label=f"{heads[n]:.0f} of {flips[n]:.0f}")
for k, colour in enumerate(COLOURS[:2]):
    curves.vlines(
        float(bias[-1, k]), 0, 0.4, color=colour, linestyle="--", linewidth=1.2, label=f"coin {'AB'[k]}, fitted"
    )
    path.plot(bias[:, k], color=colour, marker="o", markersize=3, label=f"coin {'AB'[k]}")
    path.annotate(f"{bias[-1, k]:.2f}", (len(bias) - 1, float(bias[-1, k])), (-22, 7), textcoords="offset points")
curves.set(
    xlabel="bias of a coin", ylabel="likelihood of the heads", title="What each sequence says", ylim=(-0.02, 0.56)
)
curves.legend(frameon=False, fontsize=9, ncols=2)
shares.set(xlabel="iteration", ylabel="weight of coin A", title="Which coin it was", ylim=(0, 1))
path.set(xlabel="iteration", ylabel="bias", title="The estimates", ylim=(0.4, 0.9))
path.legend(frameon=False, loc="center right")

line = torch.linspace(0.45, 0.95, 300, dtype=torch.float64)
along = torch.stack([line, start[1].expand_as(line)], -1)  # coin B held at its start
stepped = torch.stack([bias[1, 0], start[1]])
why.plot(line, log_likelihood(along), color="black", label="log-likelihood")
why.plot(line, bound(along, start), color=COLOURS[0], linestyle="--", label="bound by the weights")
why.plot(start[0], log_likelihood(start), "o", color="black", markersize=7)
why.plot(stepped[0], bound(stepped, start), "^", color=COLOURS[0], markersize=8)
why.annotate("touches here", (float(start[0]), float(log_likelihood(start))), (10, -12), textcoords="offset points")
why.annotate("M-step", (float(stepped[0]), float(bound(stepped, start))), (-22, -20), textcoords="offset points")
why.set(xlabel="bias of coin A (coin B at its start)", ylabel="nats", title="Why it works", ylim=(-13.4, -9.6))
why.legend(frameon=False, loc="lower center")
plt.show()

# %% [markdown]
# What the paper prints: the first E-step shares out 21.3 heads and 8.6 tails to coin A, 11.7 and 8.4 to coin B; one
# iteration gives 0.71 and 0.58, ten give 0.80 and 0.52.

# %%
assert [round(v, 1) for v in [*shared_heads.tolist(), *shared_tails.tolist()]] == [21.3, 11.7, 8.6, 8.4]
assert [round(v, 2) for v in bias[1].tolist()] == [0.71, 0.58]
assert [round(v, 2) for v in bias[10].tolist()] == [0.80, 0.52]
assert all(after >= before - 1e-12 for before, after in zip(fit.path, fit.path[1:], strict=False))
assert bool((bound(along, start) <= log_likelihood(along) + 1e-12).all())
assert bool((paths[-1] - fit.posterior.marginal("coin")).abs().max() < 1e-3)
