"""Gauss quadrature as a discrete Pyro distribution: a continuous latent that a model can enumerate.

`pyro.sample("ability", quadrature(dist.Normal(0, 1), 41))` is a latent with 41 values, the Gauss-Hermite nodes, whose
probabilities are the Gauss weights. A sum over `n` nodes equals the integral for every polynomial up to degree
`2 n - 1`, and converges geometrically for the smooth likelihoods of item response and random-effect models.

References:
    Golub and Welsch (1969), Calculation of Gauss quadrature rules, Mathematics of Computation 23:221-230.
    Gautschi (2004), Orthogonal Polynomials, section 1.5 (table 1.1: the recurrence coefficients) and section 3.1.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.util import broadcast_shape  # torch's own imports a second of symbolic algebra
from torch import Tensor

from em_pyro.errors import ParameterError

MATCH = 1e-6
"""A value is a node if it is this close, relative to the node: room for a trip through float32."""


def quadrature(distribution: dist.TorchDistribution, num_nodes: int) -> "Quadrature":
    """Replace a fixed scalar distribution by its Gauss rule, a discrete distribution that Pyro can enumerate.

    Args:
        distribution: a `Normal`, `Uniform`, `Gamma` or `Beta` with fixed scalar arguments.
        num_nodes: number of nodes `n`; polynomials up to degree `2 n - 1` are integrated exactly.

    Returns:
        The discrete distribution over nodes; a sampled value is the node itself, not its index.

    Raises:
        ParameterError: the family has no rule here, the distribution is batched, or it contains a parameter. Nodes
            must not move while a model is fitted, so location and scale go outside: `loc + scale * z`.
    """
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 1:
        raise ParameterError(f"quadrature: expected a number of nodes of at least 1, got {num_nodes!r}.")
    family = next((family for family in RULES if isinstance(distribution, family)), None)
    if family is None:
        raise ParameterError(
            f"quadrature: expected one of {', '.join(known.__name__ for known in RULES)}, got {distribution}. "
            "Transform the value of one of these in the model instead, as in z.exp()."
        )
    if distribution.batch_shape:
        raise ParameterError(
            f"quadrature: expected a scalar distribution, got batch shape {tuple(distribution.batch_shape)}. "
            "Sample a scalar rule inside pyro.plate, and shift and scale its value in the model."
        )
    names, standardise = RULES[family]
    arguments = {name: getattr(distribution, name) for name in names}
    free = ", ".join(name for name, value in arguments.items() if value.requires_grad)
    if free:
        raise ParameterError(
            f"quadrature: expected fixed arguments, got a parameter in {family.__name__}({free}), with which the nodes "
            'would move. Write it outside: z = pyro.sample("z", quadrature(dist.Normal(0, 1), 41)), then '
            "loc + scale * z; a shape parameter has no such rewrite and must be a number."
        )
    standard = standardise(*(float(value) for value in arguments.values()))
    nodes, log_weights = _gauss(standard.rule, standard.shapes, num_nodes)
    like = next(iter(arguments.values()))
    nodes = (standard.shift + standard.scale * nodes).to(like)
    if not bool((nodes.diff() > 0).all()):
        raise ParameterError(
            f"quadrature: expected nodes that {like.dtype} can tell apart, got ties among {num_nodes} nodes of "
            f"{distribution}. Use fewer nodes or torch.float64."
        )
    return Quadrature(nodes, log_weights.clone().to(like))


class _Nodes(constraints.Constraint):
    """The set of nodes."""

    is_discrete = True

    def __init__(self, nodes: Tensor) -> None:
        self.nodes = nodes

    def check(self, value: Tensor) -> Tensor:
        return _match(self.nodes, value)[1]


class Quadrature(TorchDistribution):
    """A discrete distribution over real numbers: `num_nodes` nodes with given log weights.

    The arguments are constants, shared by the whole batch, whatever shape a plate expands it to.

    Attributes:
        nodes: the support in increasing order, shape `(n,)`.
        log_weights: their log probabilities, shape `(n,)`.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_enumerate_support = True

    def __init__(self, nodes: Tensor, log_weights: Tensor, batch_shape: torch.Size | None = None) -> None:
        """Hold the rule; nodes and weights are kept as given."""
        self.nodes, self.log_weights = nodes, log_weights
        super().__init__(torch.Size() if batch_shape is None else batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Quadrature":
        """Return the same rule with another batch shape; nothing is copied."""
        return Quadrature(self.nodes, self.log_weights, torch.Size(batch_shape))

    @property
    def support(self) -> constraints.Constraint:
        """The set of nodes, a discrete constraint."""
        return _Nodes(self.nodes)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 - torch's signature
        """Return the nodes, shape `(n,) + batch_shape`, or `(n, 1, ..., 1)` if not `expand`."""
        nodes = self.nodes.reshape((-1,) + (1,) * len(self.batch_shape))
        return nodes.expand((-1,) + tuple(self.batch_shape)) if expand else nodes

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log weight of the node that `value` is, minus infinity where it is none.

        The lookup is done before broadcasting: enumerated in a plate of `N` rows, `n` values are looked up and the
        result of shape `(n, N)` has stride zero along the plate.
        """
        index, found = _match(self.nodes, value)
        log_weights = torch.where(found, self.log_weights[index], -torch.inf)
        return log_weights.expand(broadcast_shape(value.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw nodes."""
        shape = torch.Size(sample_shape) + self.batch_shape
        weights = (self.log_weights - self.log_weights.max()).exp()
        return self.nodes[torch.multinomial(weights, shape.numel(), replacement=True)].reshape(shape)

    @property
    def mean(self) -> Tensor:
        """The mean of the rule, equal to the distribution's."""
        return (self.log_weights.exp() * self.nodes).sum().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of the rule, equal to the distribution's from two nodes on."""
        return (self.log_weights.exp() * (self.nodes - self.mean.mean()) ** 2).sum().expand(self.batch_shape)

    def __repr__(self) -> str:
        """Show the number of nodes and their range."""
        return f"Quadrature({len(self.nodes)} nodes in [{float(self.nodes[0]):.6g}, {float(self.nodes[-1]):.6g}])"


def _match(nodes: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the node nearest to each value, and whether the value is that node up to rounding."""
    value = value.to(nodes).contiguous()
    index = torch.bucketize(value, (nodes[1:] + nodes[:-1]) / 2)
    return index, (value - nodes[index]).abs() <= MATCH * nodes[index].abs()


# --- the rules ------------------------------------------------------------------------------------------------------

Recurrence = Callable[..., tuple[Tensor, Tensor]]


class _Standard(NamedTuple):
    """A distribution as `shift + scale * t`, with `t` of a standard law whose polynomials have a known recurrence."""

    rule: Recurrence
    shapes: tuple[float, ...]
    shift: float
    scale: float


def _hermite(k: Tensor) -> tuple[Tensor, Tensor]:
    """Recurrence coefficients of the standard normal law: `a_k = 0`, `b_k = k`."""
    return torch.zeros_like(k), k


def _legendre(k: Tensor) -> tuple[Tensor, Tensor]:
    """Recurrence coefficients of the uniform law on [-1, 1]."""
    return torch.zeros_like(k), k**2 / (4.0 * k**2 - 1.0)


def _laguerre(k: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """Recurrence coefficients of the Gamma law of rate one, `alpha = concentration - 1`."""
    return 2.0 * k + concentration, k * (k + concentration - 1.0)


def _jacobi(k: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Recurrence coefficients of the law proportional to `(1 - t)^alpha (1 + t)^beta` on [-1, 1].

    The first two are written apart: the general ones are 0/0 there for `alpha + beta` of 0 or -1.
    """
    s = 2.0 * k + alpha + beta
    a = (beta - alpha) * (beta + alpha) / (s * (s + 2.0))
    b = 4.0 * k * (k + alpha) * (k + beta) * (k + alpha + beta) / (s**2 * (s + 1.0) * (s - 1.0))
    a[:1] = (beta - alpha) / (alpha + beta + 2.0)
    b[1:2] = 4.0 * (1.0 + alpha) * (1.0 + beta) / ((2.0 + alpha + beta) ** 2 * (3.0 + alpha + beta))
    return a, b


RULES: dict[type[torch.distributions.Distribution], tuple[tuple[str, ...], Callable[..., _Standard]]] = {
    torch.distributions.Normal: (("loc", "scale"), lambda m, s: _Standard(_hermite, (), m, s)),
    torch.distributions.Uniform: (("low", "high"), lambda a, b: _Standard(_legendre, (), (a + b) / 2, (b - a) / 2)),
    torch.distributions.Gamma: (("concentration", "rate"), lambda c, r: _Standard(_laguerre, (c,), 0.0, 1.0 / r)),
    torch.distributions.Beta: (
        ("concentration1", "concentration0"),
        lambda c1, c0: _Standard(_jacobi, (c0 - 1.0, c1 - 1.0), 0.5, 0.5),
    ),
}
"""Family -> the names of its arguments and its standard form. The keys are torch's classes; Pyro's derive from them."""


@lru_cache(maxsize=64)
def _gauss(rule: Recurrence, shapes: tuple[float, ...], n: int) -> tuple[Tensor, Tensor]:
    r"""Compute nodes and log weights of the Gauss rule with `n` nodes of a law of total mass one.

    The orthonormal polynomials of the law obey, with `p_0 = 1` and `p_{-1} = 0`,

        sqrt(b_{k+1}) p_{k+1}(t) = (t - a_k) p_k(t) - sqrt(b_k) p_{k-1}(t),

    that is, `J p(t) = t p(t) - sqrt(b_n) p_n(t) e_n` with the tridiagonal `J` of the `a` and `sqrt(b)`. Hence the roots
    of `p_n` are the eigenvalues of `J` and `p(t) = (p_0, ..., p_{n-1})` their eigenvectors, and the weight of a root is
    the Christoffel number `1 / |p(t)|^2`. LAPACK's eigenvectors give small weights to absolute accuracy only (the
    outermost of 201 Hermite weights is 1e-164), so `p` is run as a recurrence with its scale kept apart: the
    polynomials grow outside the bulk of the law and oscillate inside, never decay, and every weight is accurate
    relative to itself. The same vector yields its Rayleigh quotient, which squares the error of a node.

    Returns:
        Nodes in increasing order and their log weights, both of shape `(n,)`, float64 on the CPU.
    """
    a, b = rule(torch.arange(n, dtype=torch.float64, device="cpu"), *shapes)
    root_b = b[1:].sqrt()
    t: Tensor = torch.linalg.eigvalsh(torch.diag(a) + torch.diag(root_b, 1) + torch.diag(root_b, -1))
    if not bool(a.any()):  # a law symmetric around zero: zero is zero, and the halves mirror each other
        t = (t - t.flip(0)) / 2
    log_norm, correction = _polynomials(t, a, root_b)
    t = t - correction
    log_norm, _ = _polynomials(t, a, root_b)
    return t, -log_norm - torch.logsumexp(-log_norm, 0)


def _polynomials(t: Tensor, a: Tensor, root_b: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate `log |p(t)|^2` and `sqrt(b_n) p_n(t) p_{n-1}(t) / |p(t)|^2`, both of shape `(n,)`, without overflow."""
    previous, current = torch.zeros_like(t), torch.ones_like(t)
    total, log_scale = torch.ones_like(t), torch.zeros_like(t)
    for k, root in enumerate(root_b):
        left = (t - a[k]) * current - (root_b[k - 1] * previous if k else 0.0)
        previous, current = current, left / root
        # One factor for the pair and the sum keeps the recurrence homogeneous.
        scale = current.abs().clamp(min=1.0)
        previous, current, log_scale = previous / scale, current / scale, log_scale + scale.log()
        total = total / scale**2 + current**2
    residual = (t - a[-1]) * current - (root_b[-1] * previous if len(root_b) else 0.0)
    return total.log() + 2.0 * log_scale, residual * current / total
