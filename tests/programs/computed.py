"""Programs with Gaussian latents whose coefficients and scales are functions of parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

Model = Callable[[Tensor], None]
GROUP = torch.arange(6) // 2
TIMES = (0.5, 1.0, 0.3, 2.0, 0.7, 1.1)


def param(name: str, value: Any, constraint: Any = constraints.real) -> Tensor:
    """Declare a parameter."""
    return pyro.param(name, tensor(value).double(), constraint=constraint)


def positive(name: str, value: Any) -> Tensor:
    """Declare one that is positive."""
    return param(name, value, constraints.positive)


def rows(location: Callable[[Tensor], Tensor], law: Callable[[Tensor], Any] | None = None) -> Model:
    """Write rows of three numbers with one latent each."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))[..., None]
            loc = location(z) + torch.zeros(3)
            seen = dist.Normal(loc, positive("scale", [0.5, 0.7, 0.9])).to_event(1) if law is None else law(loc)
            pyro.sample("x", seen, obs=x)

    return model


def normalised(z: Tensor) -> Tensor:
    """Loadings of length one."""
    W = param("W", [0.1, 0.4, 0.3])
    return z * W / W.norm()


def by_state(x: Tensor) -> None:
    """Loadings of every state, by their logarithms."""
    share = param("share", [0.4, 0.6], constraints.simplex)
    W = param("W", [[0.1, 0.4, 0.2], [0.0, -0.5, 0.3]])
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(share))
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        scale = positive("scale", [0.5, 0.7, 0.9])
        pyro.sample("x", dist.Normal(z[..., None] * W[c].exp(), scale).to_event(1), obs=x)


def steps(law: Callable[[Tensor, int], Any]) -> Model:
    """Write a chain that is seen with noise."""

    def model(x: Tensor) -> None:
        z = torch.zeros(()).double()
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", law(z, t))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.4), obs=x[t, 0])

    return model


def decay(z: Tensor, t: int) -> Any:
    """A process of Ornstein and Uhlenbeck, seen at uneven times."""
    rate, spread = positive("rate", 0.5), positive("spread", 1.0)
    keep = torch.exp(-rate * TIMES[t])
    return dist.Normal(keep * z, spread * ((1 - keep**2) / (2 * rate)).sqrt())


def slopes(x: Tensor) -> None:
    """Intercepts and slopes of groups: standard deviations, and the root of a correlation matrix."""
    spread, root = positive("spread", [1.0, 0.5]), param("root", [[1.0, 0.0], [0.6, 0.8]], constraints.corr_cholesky)
    mean, when = param("mean", [0.0, 0.1]), torch.arange(6) / 3.0
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=spread[:, None] * root))
    with pyro.plate("rows", 6):
        loc = mean[0] + z[GROUP, 0] + (mean[1] + z[GROUP, 1]) * when
        pyro.sample("x", dist.Normal(loc, positive("scale", 0.5)), obs=x[:6, 0])


def correlated(x: Tensor) -> None:
    """Two factors of variance one with a free correlation."""
    r = param("r", 0.3, constraints.interval(-1.0, 1.0))
    covariance = torch.eye(2) + r * tensor([[0.0, 1.0], [1.0, 0.0]])
    W = param("W", [0.9, 0.7, 0.8])
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), covariance))
        loc = z[:, [0, 0, 1]] * W
        pyro.sample("x", dist.Normal(loc, positive("scale", [0.5, 0.7, 0.9])).to_event(1), obs=x)


def known_covariances(loc: Tensor) -> Any:
    """Errors with a known covariance for each row."""
    root = torch.eye(3) + 0.3 * torch.ones(3, 3).tril(-1) * torch.linspace(-1.0, 1.0, len(loc))[:, None, None]
    return dist.MultivariateNormal(loc, scale_tril=root.double())


def of_low_rank(loc: Tensor) -> Any:
    """What the first factor has left over."""
    return dist.LowRankMultivariateNormal(loc, 0.3 * torch.ones(3, 1).double(), positive("rest", [0.5, 0.6, 0.7]))


def scaled(loc: Tensor) -> Any:
    """A known covariance times a parameter."""
    root = torch.eye(3) + 0.3 * torch.ones(3, 3).tril(-1)
    return dist.MultivariateNormal(loc, scale_tril=positive("k", 1.2) * root.double())


def low_rank_latent(x: Tensor) -> None:
    """A latent vector whose covariance is of low rank, but for its diagonal."""
    with pyro.plate("rows", len(x)):
        law = dist.LowRankMultivariateNormal(torch.zeros(3).double(), 0.3 * torch.ones(3, 1).double(), torch.ones(3))
        z = pyro.sample("z", law)
        pyro.sample("x", dist.Normal(z, positive("scale", 0.5)).to_event(1), obs=x)


COMPUTED: Mapping[str, Model] = {
    "exponential": rows(lambda z: z * param("W", [0.1, 0.4, -0.3]).exp()),
    "square": rows(lambda z: z * param("W", [0.5, 0.4, -0.6]) ** 2),
    "softplus": rows(lambda z: z * softplus(param("W", [0.1, 0.4, -0.3]))),
    "softmax": rows(lambda z: z * param("W", [0.1, 0.4, -0.3]).softmax(-1)),
    "product": rows(lambda z: z * param("a", 0.7) * param("b", [0.8, 0.4, -0.6])),
    "ratio": rows(lambda z: z * param("a", [0.8, 0.4, -0.6]) / positive("b", 1.3)),
    "length one": rows(normalised),
    "a marker": rows(lambda z: z * torch.cat([torch.ones(1), softplus(param("W", [0.4, -0.3]))])),
    "curve of a covariate": rows(lambda z: torch.exp(-positive("a", 0.3) * torch.arange(len(z)))[:, None] * z),
    "by state": by_state,
    "tanh of a step": steps(lambda z, t: dist.Normal(param("keep", 0.4).tanh() * z, positive("step", 0.8))),
    "uneven times": steps(decay),
    "a scale by softplus": steps(lambda z, t: dist.Normal(0.8 * z, softplus(param("step", 0.5)))),
    "standard deviations and correlations": slopes,
    "a free correlation": correlated,
    "known covariances": rows(lambda z: z * param("W", [0.9, 0.7, 0.8]), known_covariances),
    "a covariance of low rank": rows(lambda z: z * param("W", [0.9, 0.7, 0.8]), of_low_rank),
    "a latent of low rank": low_rank_latent,
    "a covariance that is scaled": rows(lambda z: z * param("W", [0.9, 0.7, 0.8]), scaled),
}
"""Affine in the latents, and not in the parameters; or with scales that are no parameters."""
