"""A program summed over all joint assignments of its latents in one run: differentiable, and nothing of the library.

All latents get values by `poutine.condition`, with the assignments as one more dimension on the left; the log-densities
of all sites, summed, are a line for each assignment. Rows with weights need the evidence of every row by itself: there
the assignments are those of one row, given to all rows alike.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import product
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints, transform_to

Params = Mapping[str, Tensor]


class Enumerated:
    """The objective of a program as a function of its parameters: log evidence plus log prior.

    Attributes:
        latents: for each, the shape of its plates and its states.
        digits: which state each entry of each latent has, shape `(R, entries)`.
    """

    def __init__(self, model: Callable[..., Any], args: Params, *, by_row: bool = False) -> None:
        """Find the latents and the parameters by one run."""
        self.model, self.by_row = model, by_row
        self.args = {n: v.double() if v.is_floating_point() else v for n, v in args.items()}
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            pyro.clear_param_store()
            nodes = _run(model, self.args)
            domains = pyro.get_param_store().get_state()["constraints"]
        free = [
            n for n, node in nodes.items() if node["type"] == "sample" and not node["is_observed"] and _is_site(node)
        ]
        laws = {n: nodes[n]["fn"] for n in free}
        self.depth = (
            max(-f.dim for node in nodes.values() for f in node.get("cond_indep_stack", ()))
            if any(node.get("cond_indep_stack") for node in nodes.values())
            else 0
        )
        self.latents = {
            n: (law.batch_shape, law.enumerate_support(expand=False).flatten())
            for n, law in laws.items()
            if law.has_enumerate_support
        }
        self.priors = [n for n in laws if n not in self.latents]
        self.domains = {n: domains[n] for n, node in nodes.items() if node["type"] == "param"} | {
            n: laws[n].support for n in self.priors
        }
        self.start = {n: nodes[n]["value"].detach().double() for n in self.domains}
        scales = [
            torch.as_tensor(n["scale"]).double() for n in nodes.values() if n["type"] == "sample" and n["is_observed"]
        ]
        rows = max((shape[0] for shape, _ in self.latents.values() if shape), default=1)
        self.weights = (
            max(scales, key=lambda s: s.numel()).reshape(-1).expand(rows) if by_row else torch.ones(1).double()
        )
        sizes = [len(states) for shape, states in self.latents.values() for _ in range(self._own(shape).numel())]
        self.digits = torch.tensor(list(product(*map(range, sizes)))).reshape(-1, len(sizes)).long()

    # ---- sums over assignments ----

    def lines(self, params: Params) -> tuple[dict[str, Tensor], Tensor]:
        """Return the log-densities of every site, shape `(R or 1, 1 or rows, cells)`, and the log prior."""
        own = {n: v for n, v in params.items() if n not in self.priors}
        values = {**self._assigned(), **{n: params[n] for n in self.priors}}
        with pyro.get_param_store().scope(), pyro.validation_enabled(is_validate=False):
            model = poutine.condition(poutine.substitute(self.model, data=own) if own else self.model, data=values)
            nodes = _run(model, self.args)
        prior, found = torch.zeros(()).double(), {}
        for name, node in nodes.items():
            if node["type"] != "sample" or not _is_site(node):
                continue
            line = _density(node["fn"], node["value"])
            if name in self.priors:
                prior = prior + line.sum()
                continue
            if node["mask"] is not None and name not in self.latents:  # a masked latent sums to one all the same
                line = torch.where(torch.as_tensor(node["mask"]), line, 0.0)
            line = line if line.dim() > self.depth else line.unsqueeze(0)
            found[name] = line.reshape(len(line), len(self.weights), -1)
        return found, prior

    def log_joint(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return the log-joint of every assignment, shape `(R, 1)` or `(R, rows)`, and the log prior."""
        lines, prior = self.lines(params)
        return sum(line.sum(-1) for line in lines.values()).expand(len(self.digits), -1), prior

    def objective(self, params: Params) -> Tensor:
        """Return log evidence plus log prior; the evidence of a row with a weight counts that often."""
        total, prior = self.log_joint(params)
        return (self.weights * total.logsumexp(0)).sum() + prior

    def evidence(self, params: Params) -> float:
        """Return the log evidence."""
        return float(self.objective(params) - self.log_joint(params)[1])

    def shares(self, params: Params) -> Tensor:
        """Return the posterior of the assignments, shape `(R, 1)` or `(R, rows)`."""
        return self.log_joint(params)[0].softmax(0).detach()

    def q(self, params: Params, shares: Tensor) -> Tensor:
        """Return the expected log-joint under given shares, plus log prior; without latents that nothing hangs on."""
        lines, prior = self.lines(params)
        for name in self.latents:
            lines[name] = lines[name] * ~self.barren[name]
        total = sum(line.sum(-1) for line in lines.values())
        return (self.weights * shares * torch.where(shares == 0, 0.0, total)).sum() + prior

    @cached_property
    def barren(self) -> dict[str, Tensor]:
        """Which entries of each latent, shape `(1 or rows, entries)`, move no density but their own and barren ones'.

        They cancel from the evidence, and a step that leaves them out of `Q` is the longer.
        """
        with torch.no_grad():
            lines, _ = self.lines(self.start)
        owners = [(name, k) for name, (shape, _) in self.latents.items() for k in range(self._own(shape).numel())]
        sizes = [len(self.latents[name][1]) for name, _ in owners]
        moved = []
        for e in range(len(owners)):
            by = {}
            for site, line in lines.items():
                cells = line.expand(len(self.digits), -1, -1).reshape(*sizes, *line.shape[1:])
                spread = cells.amax(e) - cells.amin(e)
                by[site] = (spread > 1e-12).reshape(-1, *line.shape[1:]).any(0)
            moved.append(by)
        gone = {
            n: torch.zeros(len(self.weights), self._own(shape).numel()).bool() for n, (shape, _) in self.latents.items()
        }
        for _ in owners:
            for (name, k), by in zip(owners, moved, strict=True):
                own = gone[name].clone()
                own[:, k] = True
                others = {**gone, name: own}
                gone[name][:, k] = torch.stack(
                    [(~cells | others.get(site, torch.tensor(data=False))).all(-1) for site, cells in by.items()]
                ).all(0)
        return gone

    def rounding(self, params: Params) -> float:
        """Return what the last digits of log-joints may do to marginals: a share is the exponential of a difference."""
        total = self.log_joint(params)[0]
        return 8 * torch.finfo(total.dtype).eps * float(total[total.isfinite()].abs().max())

    def marginals(self, params: Params) -> dict[str, Tensor]:
        """Return the posterior of every latent, shape (plates) + `(states,)`."""
        shares, found, entry = self.shares(params), {}, 0
        for name, (shape, states) in self.latents.items():
            own, columns = self._own(shape), []
            for _ in range(own.numel()):
                table = torch.zeros(len(states), shares.shape[1]).double()
                columns.append(table.index_add(0, self.digits[:, entry], shares))
                entry += 1
            table = torch.stack(columns)  # (entries, states, 1 or rows)
            found[name] = table.movedim(2, 0).movedim(2, -1).reshape(*shape, len(states))
        return found

    def _own(self, shape: torch.Size) -> torch.Size:
        """The shape of a latent within one row, where rows are summed by themselves."""
        return shape[1:] if self.by_row else shape

    def _assigned(self) -> dict[str, Tensor]:
        """Values of all latents, the assignments on the left of the plates."""
        parts = self.digits.split([self._own(shape).numel() for shape, _ in self.latents.values()], 1)
        found = {}
        for (name, (shape, states)), part in zip(self.latents.items(), parts, strict=True):
            outside = (1,) * (self.depth - len(shape))
            value = states[part].reshape(
                len(part), *outside, *(1,) * (len(shape) - len(self._own(shape))), *self._own(shape)
            )
            found[name] = value.expand(len(part), *outside, *shape)
        return found

    # ---- a maximum nearby ----

    def point(self, params: Params) -> Tensor:
        """Return unconstrained coordinates; a boundary is far out, not at infinity."""
        parts = []
        for name, domain in self.domains.items():
            part = transform_to(domain).inv(params[name].double()).reshape(-1)
            parts.append(part if domain is constraints.real else part.clamp(-30, 30))  # a separated slope is far out
        return torch.cat(parts).detach()

    def params(self, point: Tensor) -> dict[str, Tensor]:
        """Return the values of parameters at unconstrained coordinates."""
        found, at = {}, 0
        for name, domain in self.domains.items():
            shape = transform_to(domain).inv(self.start[name]).shape
            found[name] = transform_to(domain)(point[at : at + shape.numel()].reshape(shape))
            at += shape.numel()
        return found


def climb(height: Callable[[Tensor], Tensor], point: Tensor, tolerance: float, steps: int = 15) -> tuple[float, bool]:
    """Climb by Newton's method, every curvature taken for a negative one, steps halved.

    Returns:
        What is gained, once the slope promises no more than `tolerance`; and whether that point was reached.
    """
    first = best = float(height(point).detach())
    for _ in range(steps):
        slope = torch.autograd.functional.jacobian(height, point)
        if float(slope.abs().max()) <= tolerance:
            return best - first, True
        curve = torch.autograd.functional.hessian(height, point)
        if not curve.isfinite().all():
            break
        unit = curve.diagonal().abs().clamp(min=1.0).rsqrt()  # beside the location of a scale near zero others are flat
        values, axes = torch.linalg.eigh(unit[:, None] * curve * unit)
        axes = unit[:, None] * axes
        size = values.abs().clamp(min=1e-9 * (1 + float(values.abs().max())))
        along = (axes.T @ slope / size).clamp(-3, 3)
        if float(along @ (axes.T @ slope)) <= tolerance:
            return best - first, True
        for k in range(25):
            there = point + 0.5**k * (axes @ along)
            reached = float(height(there).detach())
            if reached > best:
                point, best = there, reached
                break
        else:
            break
    return best - first, False


def _density(law: Any, value: Tensor) -> Tensor:
    """Return the log-density; torch's own of a Weibull is nan where a power overflows."""
    if not isinstance(law, pyro.distributions.Weibull):
        return law.log_prob(value)
    k, power = law.concentration, law.concentration * (value / law.scale).log()
    return k.log() + power - value.log() - power.exp()


def _is_site(node: dict[str, Any]) -> bool:
    return not node["infer"].get("_deterministic") and type(node["fn"]).__name__ != "_Subsample"


def _run(model: Callable[..., Any], args: Params) -> dict[str, Any]:
    return dict(poutine.trace(model).get_trace(**args).nodes)
