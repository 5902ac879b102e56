"""The zoo's models with Gaussian latents as normal laws of all that is observed.

Each is written down here once more, as mean and covariance of the rows that were seen, by formulas that share nothing
with the package.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, eye, ones
from torch.distributions import MultivariateNormal

Params = Mapping[str, Tensor]


def by_row(x: Tensor, loc: Tensor, covariance: Tensor, seen: Tensor | None = None) -> Tensor:
    """Log-density of every row of `x` where it was seen, shape `(N,)`."""
    seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen
    rows = []
    for row, m in zip(x, seen, strict=True):
        law = MultivariateNormal(loc[m], covariance[m][:, m]) if m.any() else None
        rows.append(torch.tensor(0.0) if law is None else law.log_prob(row[m]))
    return torch.stack(rows)


def factors(p: Params, x: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
    """Uniquenesses on the diagonal, common factors beside it."""
    return by_row(x, p["loc"], p["loadings"] @ p["loadings"].T + p["scale"] ** 2 * eye(x.shape[1]), seen).sum()


def confirmatory(p: Params, x: Tensor, factor: Tensor) -> Tensor:
    """The first and the fourth measurement have a loading of one."""
    loadings = torch.zeros(6, 2)
    loadings[torch.arange(6), factor] = torch.cat([ones(1), p["loadings"][:2], ones(1), p["loadings"][2:]])
    common = loadings @ p["root"] @ p["root"].T @ loadings.T
    return by_row(x, p["loc"], common + torch.diag(p["scale"] ** 2)).sum()


def groups(group: Tensor) -> Tensor:
    """Membership, shape `(N, groups)`."""
    return torch.nn.functional.one_hot(group).double()


def effects(p: Params, y: Tensor, *parts: tuple[str, Tensor]) -> Tensor:
    """Scales of independent effects with their designs."""
    covariance = p["within"] ** 2 * eye(len(y)) + sum(p[name] ** 2 * Z @ Z.T for name, Z in parts)
    return MultivariateNormal(p["mean"].expand(len(y)), covariance).log_prob(y)


def slopes(p: Params, y: Tensor, x: Tensor, group: Tensor) -> Tensor:
    """Rows of one group share its coefficients."""
    covariance = x @ p["root"] @ p["root"].T @ x.T * (group[:, None] == group) + p["within"] ** 2 * eye(len(y))
    return MultivariateNormal(x @ p["coef"], covariance).log_prob(y)


def diffuse(y: Tensor, covariance: Tensor, flat: Tensor, seen: Tensor | None) -> Tensor:
    """Integrate the density of `y` over coefficients of the columns of `flat`, of density one everywhere."""
    m = torch.ones_like(y, dtype=torch.bool) if seen is None else seen
    y, V, X = y[m], covariance[m][:, m], flat[m]
    information = X.T @ torch.linalg.solve(V, X)
    best = torch.linalg.solve(information, X.T @ torch.linalg.solve(V, y))
    k = X.shape[1]
    return MultivariateNormal(X @ best, V).log_prob(y) + 0.5 * (k * math.log(2 * math.pi) - information.logdet())


def local_level(p: Params, y: Tensor, seen: Tensor | None = None) -> Tensor:
    """A random walk after a level of which nothing is known."""
    steps = torch.arange(len(y))
    walk = torch.minimum(steps[:, None], steps).double()
    covariance = p["level"] ** 2 * walk + p["noise"] ** 2 * eye(len(y))
    return diffuse(y, covariance, ones(len(y), 1), seen)


def local_trend(p: Params, y: Tensor) -> Tensor:
    """Disturbances of slope and level, added up."""
    T = len(y)
    once = torch.ones(T, T).tril()[:, 1:]  # what the disturbance that leads to step s does to the walk at step t
    twice = once.cumsum(0).roll(1, 0).index_fill(0, torch.tensor(0), 0.0)
    covariance = p["level"] ** 2 * once @ once.T + p["slope"] ** 2 * twice @ twice.T + p["noise"] ** 2 * eye(T)
    return diffuse(y, covariance, torch.stack([ones(T), torch.arange(T).double()], -1), None)


def linear_system(p: Params, y: Tensor, k: int, lengths: Tensor) -> Tensor:
    """Each sequence to its end."""
    F, H, total = p["transition"], p["emission"], torch.tensor(0.0)
    for series, T in zip(y, lengths.tolist(), strict=True):
        moves = eye(T * k) - torch.kron(torch.diag(ones(T - 1), -1), F)
        see = torch.kron(eye(T), H) @ torch.linalg.inv(moves)
        law = MultivariateNormal(p["loc"].repeat(T), see @ see.T + torch.diag(p["noise"].repeat(T) ** 2))
        total = total + law.log_prob(series[:T].reshape(-1))
    return total


def missing(p: Params, x: Tensor, seen: Tensor) -> Tensor:
    """The entries that were seen."""
    return by_row(x, p["loc"], p["scale_tril"] @ p["scale_tril"].T, seen).sum()


def mixed(weights: Tensor, parts: list[Tensor]) -> Tensor:
    """Log-densities of the rows under each component, mixed."""
    return torch.logsumexp(weights.log()[:, None] + torch.stack(parts), 0).sum()


def missing_mixture(p: Params, x: Tensor, seen: Tensor) -> Tensor:
    """The entries that were seen, in each component."""
    laws = zip(p["loc"], p["scale_tril"], strict=True)
    return mixed(p["weights"], [by_row(x, loc, root @ root.T, seen) for loc, root in laws])


def factors_mixture(p: Params, x: Tensor, K: int, k: int) -> Tensor:
    """A covariance for each component."""
    laws = zip(p["loc"], p["loadings"], strict=True)
    return mixed(p["weights"], [by_row(x, loc, W @ W.T + torch.diag(p["scale"] ** 2)) for loc, W in laws])


DENSE: dict[str, Callable[..., Tensor]] = {
    "factors": factors,
    "factors-missing": factors,
    "factors-spherical": factors,
    "factors-confirmatory": confirmatory,
    "effects-intercepts": lambda p, y, group: effects(p, y, ("between", groups(group))),
    "effects-slopes": slopes,
    "effects-nested": lambda p, y, group, larger: effects(
        p, y, ("between", groups(group)), ("outer", groups(larger[group]))
    ),
    "effects-crossed": lambda p, y, one, two: effects(p, y, ("first", groups(one)), ("second", groups(two))),
    "local-level": local_level,
    "local-level-missing": local_level,
    "local-trend": local_trend,
    "linear-system": linear_system,
    "missing-normal": missing,
    "missing-mixture": missing_mixture,
    "factors-mixture": factors_mixture,
}
