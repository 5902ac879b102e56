"""Random effects: groups differ, and how much they differ is estimated with what they have in common.

    between           coef, within
       |                  |
    +--|----- groups: G --|---+
    |  v                  |   |
    | effect              |   |
    +--|------------------|---+
    +--|----------------- | --- rows: N --+
    |  v                  v               |
    | y_n, with effect[group[n]]  <--- x  |
    +-------------------------------------+

The group of every row is known; the effect of a group is not. A group with few rows borrows from the others: its effect
is drawn towards zero, the more so the smaller `between` is beside `within`.

Effects may be intercepts, or intercepts and slopes with any covariance; groups may be nested in larger ones, or crossed
with others.

Closed form: `mean` and `coef` (least squares, given the expected effects), `between`, `outer`, `within` (Normal
scales), and `root`, the Cholesky factor of the covariance of intercepts and slopes.

Data: `load("dyestuff")`, the yield of five samples from each of six batches of dye; `load("growth")`, a distance in the
skulls of 27 children at four ages; simulated.

References:
    Laird, N. M. and Ware, J. H. (1982). Random-effects models for longitudinal data. Biometrics 38, 963-974.
    Dempster, A. P., Rubin, D. B. and Tsutakawa, R. K. (1981). Estimation in covariance components models. JASA 76,
    341-353.
    Bates, D. M. (2010). lme4: Mixed-effects Modeling with R. Springer (draft).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import categories_of, finite, real, usable


def intercepts(y: Tensor, group: Tensor) -> None:
    """Give every group a level of its own.

    Params: `mean` `()`, `between` `()`, `within` `()`. Sites: `effect` (latent, one a group), `y`.

    Args:
        y: response, shape `(N,)`.
        group: of every row, shape `(N,)`, integers counted from 0.
    """
    y = real(y)
    mean, (between, within) = _mean(y), _scales(y, "between", "within")
    effect = _effect("effect", "groups", group, between)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + effect[group], within), obs=y)


def slopes(y: Tensor, x: Tensor, group: Tensor, z: Tensor | None = None) -> None:
    """Give every group coefficients of its own, with any covariance: Laird & Ware's model.

    Params: `coef` `(P,)`, in common; `root` `(Q, Q)`, the Cholesky factor of the covariance of what a group adds;
    `within` `()`. Sites: `effect` (latent, a vector of `Q` a group), `y`.

    Args:
        y: response, shape `(N,)`.
        x: design of what is common, shape `(N, P)`; an intercept is a column of ones.
        group: of every row, shape `(N,)`, integers counted from 0.
        z: design of what differs between groups, shape `(N, Q)`; `x` if not given.
    """
    y, x = real(y), real(x)
    z = x if z is None else real(z)
    coef = pyro.param("coef", lambda: torch.linalg.lstsq(finite(x), finite(y)).solution)
    within = pyro.param("within", lambda: usable(finite(y).std()) / 2, constraint=constraints.positive)
    start = torch.diag(usable(finite(y).std()) / 2 / usable(finite(z).square().mean(0).sqrt()))
    root = pyro.param("root", start, constraint=constraints.lower_cholesky)
    with pyro.plate("groups", categories_of(group)):
        effect = pyro.sample("effect", dist.MultivariateNormal(z.new_zeros(z.shape[1]), scale_tril=root))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ coef + (z * effect[group]).sum(-1), within), obs=y)


def nested(y: Tensor, group: Tensor, larger: Tensor) -> None:
    """Nest groups in larger ones, as classes in schools.

    Params: `mean`, `outer`, `between`, `within`, all `()`. Sites: `outer_effect` (latent, one a larger group), `effect`
    (latent, one a group, around that of its larger group), `y`.

    Args:
        y: response, shape `(N,)`.
        group: of every row, shape `(N,)`, integers counted from 0.
        larger: the larger group of every group, shape `(G,)`, integers counted from 0.
    """
    y = real(y)
    mean, (outer, between, within) = _mean(y), _scales(y, "outer", "between", "within")
    outer_effect = _effect("outer_effect", "larger", larger, outer)
    with pyro.plate("groups", len(larger)):
        effect = pyro.sample("effect", dist.Normal(outer_effect[larger], between))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + effect[group], within), obs=y)


def crossed(y: Tensor, first: Tensor, second: Tensor) -> None:
    """Cross two ways to group, as judges and wines.

    Params: `mean`, `first`, `second`, `within`, all `()`. Sites: `first_effect`, `second_effect` (latent), `y`.

    Args:
        y: response, shape `(N,)`.
        first: of every row the group of the first kind, shape `(N,)`, integers counted from 0.
        second: and of the second kind.
    """
    y = real(y)
    mean, (tau, upsilon, within) = _mean(y), _scales(y, "first", "second", "within")
    first_effect = _effect("first_effect", "firsts", first, tau)
    second_effect = _effect("second_effect", "seconds", second, upsilon)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + first_effect[first] + second_effect[second], within), obs=y)


def _mean(y: Tensor) -> Tensor:
    return pyro.param("mean", lambda: finite(y).mean())


def _scales(y: Tensor, *names: str) -> list[Tensor]:
    """Declare scales that share the variance of the data equally."""
    share = len(names) ** -0.5
    return [
        pyro.param(name, lambda: share * usable(finite(y).std()), constraint=constraints.positive) for name in names
    ]


def _effect(name: str, plate: str, group: Tensor, scale: Tensor) -> Tensor:
    with pyro.plate(plate, categories_of(group)):
        return pyro.sample(name, dist.Normal(torch.zeros_like(scale), scale))


def simulate(n: int = 200, G: int = 20, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Draw `n` rows of `G` groups of unequal sizes: levels around 5 with scale 2, noise of 1.

    Returns:
        `y` `(n,)` and `group` `(n,)`: the arguments of `intercepts`.
    """
    with seeded(seed):
        group = _members(n, G)
        return 5 + 2 * torch.randn(G)[group] + torch.randn(n), group


def simulate_slopes(n: int = 200, G: int = 20, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw lines: intercepts around 5 with scale 2, slopes around 1 with scale 0.5, correlation 0.5, noise of 1.

    Returns:
        `y` `(n,)`, `x` `(n, 2)` and `group` `(n,)`: the arguments of `slopes`.
    """
    with seeded(seed):
        group, x = _members(n, G), torch.stack([torch.ones(n), 6 * torch.rand(n) - 3], -1)
        covariance = torch.tensor([[4.0, 0.5], [0.5, 0.25]])
        coef = dist.MultivariateNormal(torch.tensor([5.0, 1.0]), covariance).sample((G,))
        return (x * coef[group]).sum(-1) + torch.randn(n), x, group


def simulate_nested(
    n: int = 200, G: int = 24, larger: int = 8, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `n` rows of `G` groups in `larger` ones: scales 2 between the larger, 1 between groups, 0.5 within.

    Returns:
        `y` `(n,)`, `group` `(n,)` and `larger` `(G,)`: the arguments of `nested`.
    """
    with seeded(seed):
        group, of = _members(n, G), torch.arange(G) % larger
        return 5 + (2 * torch.randn(larger)[of] + torch.randn(G))[group] + 0.5 * torch.randn(n), group, of


def simulate_crossed(
    n: int = 200, first: int = 12, second: int = 8, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `n` rows of two ways to group: scales 2 and 1 between them, 0.5 within.

    Returns:
        `y` `(n,)`, `first` `(n,)` and `second` `(n,)`: the arguments of `crossed`.
    """
    with seeded(seed):
        one, two = _members(n, first), _members(n, second)
        y = 5 + 2 * torch.randn(first)[one] + torch.randn(second)[two] + 0.5 * torch.randn(n)
        return y, one, two


def _members(n: int, G: int) -> Tensor:
    """Draw the group of every row; every group has one."""
    return torch.cat([torch.arange(G), torch.randint(G, (n - G,))])
