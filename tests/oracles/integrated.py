"""A program with continuous latents that are jointly normal, integrated by brute force: by the model's own `log_prob`.

Discrete latents are given every joint assignment, one run each. Given one, the log-joint is a quadratic function of the
continuous latents, which gradient and Hessian at zero say all of; nothing is known of rows, groups, chains or of what a
latent multiplies. Differentiable in the parameters, and nothing of the library.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import transform_to

Params = Mapping[str, Tensor]


class Quadratic(NamedTuple):
    """`c + g'z - z'Jz / 2`."""

    c: Tensor
    g: Tensor
    J: Tensor


class Given(NamedTuple):
    """The law of all latents given the data: shares of assignments, and of each mean and covariance of the others."""

    shares: Tensor
    means: list[Tensor]
    covariances: list[Tensor]


class Integrated:
    """The objective of a program as a function of its parameters: log evidence plus log prior."""

    def __init__(self, model: Callable[..., Any], args: Params, beginnings: Sequence[str]) -> None:
        """Find parameters and latents by one run.

        Args:
            model: the program.
            args: its arguments, by name.
            beginnings: of the names of the continuous latents that are integrated; others are parameters with a prior.
        """
        self.model, self.args = model, args
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            pyro.clear_param_store()
            nodes = self._run(model)
            domains = pyro.get_param_store().get_state()["constraints"]
        laws = {n: node["fn"] for n, node in nodes.items() if _is_site(node) and not node["is_observed"]}
        discrete = {n: law for n, law in laws.items() if law.has_enumerate_support}
        self.latents = {
            n: law.shape() for n, law in laws.items() if n not in discrete and n.startswith(tuple(beginnings))
        }
        self.priors = [n for n in laws if n not in discrete and n not in self.latents]
        self.domains = {n: domains[n] for n, node in nodes.items() if node["type"] == "param"} | {
            n: laws[n].support for n in self.priors
        }
        self.start = {n: nodes[n]["value"].detach() for n in self.domains}
        self.size = sum(shape.numel() for shape in self.latents.values())
        self.states = [{}]
        for name, law in discrete.items():
            ways = product(law.enumerate_support(expand=False).flatten().tolist(), repeat=law.batch_shape.numel())
            values = [torch.tensor(way).reshape(law.batch_shape) for way in ways]
            self.states = [{**one, name: value} for one in self.states for value in values]

    def _run(self, model: Callable[..., Any]) -> dict[str, Any]:
        with pyro.validation_enabled(is_validate=False):
            return dict(poutine.trace(model).get_trace(**self.args).nodes)

    # ---- densities ----

    def log_joint(self, params: Params, states: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density of data and latents at values of these, side by side; and the log prior."""
        own = {n: v for n, v in params.items() if n not in self.priors}
        values, at = {**states, **{n: params[n] for n in self.priors}}, 0
        for name, shape in self.latents.items():
            values[name] = z[at : at + shape.numel()].reshape(shape)
            at += shape.numel()
        with pyro.get_param_store().scope():
            nodes = self._run(
                poutine.condition(poutine.substitute(self.model, data=own) if own else self.model, values)
            )
        total = prior = torch.zeros(())
        for name, node in nodes.items():
            if _is_site(node):
                line = node["fn"].log_prob(node["value"])
                line = line if node["mask"] is None else torch.where(torch.as_tensor(node["mask"]), line, 0.0)
                if name in self.priors:
                    prior = prior + line.sum()
                else:
                    total = total + line.sum()
        return total, prior

    def quadratics(self, params: Params) -> tuple[list[Quadratic], Tensor]:
        """Return the log-joint as a function of the continuous latents, for every assignment; and the log prior."""
        found = []
        for states in self.states:
            zero = torch.zeros(self.size, requires_grad=True)
            value, prior = self.log_joint(params, states, zero)
            (g,) = torch.autograd.grad(value, zero, create_graph=True)
            (rows,) = torch.autograd.grad(g, zero, torch.eye(self.size), create_graph=True, is_grads_batched=True)
            found.append(Quadratic(value, g, -rows))
        return found, prior

    def evidence(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return the log evidence of every assignment, and the log prior."""
        quadratics, prior = self.quadratics(params)
        return torch.stack([_integral(q)[0] for q in quadratics]), prior

    def objective(self, params: Params) -> Tensor:
        """Return log evidence plus log prior."""
        each, prior = self.evidence(params)
        return each.logsumexp(0) + prior

    def given(self, params: Params) -> Given:
        """Return the law of the latents given the data."""
        quadratics, _ = self.quadratics({n: v.detach() for n, v in params.items()})
        every = [_integral(q) for q in quadratics]
        shares = torch.stack([one[0] for one in every]).softmax(0).detach()
        return Given(shares, [one[1].detach() for one in every], [one[2].detach() for one in every])

    def q(self, params: Params, given: Given) -> Tensor:
        """Return the expected log-joint plus log prior: of a quadratic, by mean and covariance."""
        quadratics, prior = self.quadratics(params)
        total = prior
        for share, (c, g, J), m, V in zip(given.shares, quadratics, given.means, given.covariances, strict=True):
            total = total + share * (c + g @ m - 0.5 * (m @ J @ m + (J * V).sum()))
        return total

    def q_by_points(self, params: Params, points: Sequence[Tensor], shares: Tensor) -> Tensor:
        """Return the same as an average of log-joints: `points` of each assignment, shape `(k + 1, k)`."""
        total = torch.zeros(())
        for share, states, some in zip(shares, self.states, points, strict=True):
            values = [self.log_joint(params, states, z) for z in some]
            total = total + share * torch.stack([sum(value) for value in values]).mean()
        return total

    # ---- coordinates ----

    def point(self, params: Params) -> Tensor:
        """Return unconstrained coordinates."""
        parts = [transform_to(domain).inv(params[name]).reshape(-1) for name, domain in self.domains.items()]
        return torch.cat(parts).detach() if parts else torch.zeros(0)

    def params(self, point: Tensor) -> dict[str, Tensor]:
        """Return the values of parameters at unconstrained coordinates."""
        found, at = {}, 0
        for name, domain in self.domains.items():
            shape = transform_to(domain).inv(self.start[name]).shape
            found[name] = transform_to(domain)(point[at : at + shape.numel()].reshape(shape))
            at += shape.numel()
        return found


def _integral(q: Quadratic) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log of the integral, mean and covariance; a latent of no density that enters nothing is left out."""
    live = (q.J.diagonal() != 0).detach()
    J = torch.where(live & live[:, None], q.J, torch.eye(len(live)))
    root = torch.linalg.cholesky(J)
    mean = torch.cholesky_solve(torch.where(live, q.g, 0.0).unsqueeze(-1), root).squeeze(-1)
    constant = 0.5 * live.sum() * torch.log(torch.tensor(2 * torch.pi)) - root.diagonal().log().sum()
    covariance = torch.where(live & live[:, None], torch.cholesky_inverse(root), 0.0)
    return q.c + 0.5 * q.g @ mean + constant, mean, covariance


def _is_site(node: dict[str, Any]) -> bool:
    return node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"
