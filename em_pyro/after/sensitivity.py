"""Derivatives of fitted values by the data, through the fixed point of EM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from ..e_step.build import build
from ..e_step.engine import Engine
from ..errors import ParameterError, PlanError
from ..fit.certificate import snapped
from ..fit.problem import Problem
from ..fit.verdict.around import Around
from ..fit.verdict.ground import FINE, STEP, Ground
from ..posterior.joint import Joint
from ..program.named import Batch, Params, batched, only
from ..program.site import Site
from ..records.frozen import frozen

CHORDS, SETTLED = 10, 1e-11  # steps to the maximum, and how short the last is, in standard errors given complete data
LOST = 1e-10  # relative to 1 + |objective|: by how much rounding may lower it there
FLAT = 1e-7  # information in the observed data, of that in complete data, below which a direction is not identified


def sensitivity(problem: Problem, params: Params, of: str, to: Tensor) -> Tensor:
    """Return `d theta / d x` at a maximum `theta` of the objective of data `x`: shape of `theta[of]` + shape of `x`.

    By the implicit function theorem, with the score `s(theta, x) = 0` in coordinates in which complete data have
    information one, `T` their basis,

        d theta / d x = T I_obs^-1 T' d s / d x.

    The gradient of the evidence by the data is that of the expected complete-data log-density (Fisher's identity holds
    for data as for parameters); along the directions of the left side it is differenced by the parameters.
    Probabilities that have run to zero or one stay there.

    Args:
        problem: the program and its data.
        params: the maximum.
        of: the parameter.
        to: one of the tensors that were passed to the model.

    Raises:
        ParameterError: no such parameter, or no such tensor of real numbers among the arguments.
        PlanError: the program has integrated latents, or torch cannot differentiate its densities; or weights of rows
            are made of the tensor; or the parameters are not identified.
    """
    engine = problem.engine.full
    if of not in problem.program.parameters:
        raise ParameterError(f'of: expected one of {sorted(problem.program.parameters)}, got "{of}".')
    if engine.recognition.latents is not None:
        raise PlanError(
            f'sensitivity: expected discrete latents, got "{min(engine.program.integrated)}", continuous and '
            f"integrated. Fit again at other data, and compare."
        )
    slope = _Slope(problem, _place(problem, to))
    values = {name: value.detach().double() for name, value in params.items()}
    ground = Ground(problem, Around(problem.program, problem.plan.free, values))
    ground, _ = snapped(ground, problem.objective(batched(values)))
    if not ground.around.size or of not in problem.plan.free:
        return torch.zeros((*values[of].shape, *to.shape), dtype=torch.float64)
    ground = _climbed(ground)
    around = ground.around
    zero = torch.zeros(around.size, dtype=torch.float64)
    moved = jacobian(lambda v: around.batch(v.unsqueeze(0))[of].reshape(-1), zero)
    basis, inverse = _information(ground)
    rows = []
    for direction in moved @ basis @ inverse:  # in coordinates of the basis
        size = float(direction.norm())
        unit = basis @ direction / (size or 1.0)
        at = ((weight, only(around.batch((STEP * k * unit).unsqueeze(0)))) for k, weight in FINE.items())
        slopes = torch.stack([weight * slope(here) for weight, here in at])
        rows.append(size / STEP * slopes.sum(0))
    return torch.stack(rows).reshape((*values[of].shape, *to.shape))


def _climbed(ground: Ground) -> Ground:
    """Go on to the maximum by chords of Newton's method: a fit ends within its tolerance, and derivatives feel it."""
    basis, inverse = _information(ground)
    at = torch.zeros(1, ground.around.size, dtype=torch.float64)
    for _ in range(CHORDS):
        step = ground.slopes(at) @ basis @ inverse
        at = at + step @ basis.mT
        if float(step.norm()) < SETTLED:
            break
    start, end = ground.heights(torch.cat([torch.zeros_like(at), at])).tolist()
    if end < start - LOST * (1 + abs(start)):
        return ground
    return Ground(ground.problem, Around(ground.around.program, ground.around.names, only(ground.around.batch(at))))


def _information(ground: Ground) -> tuple[Tensor, Tensor]:
    """A basis in which complete data have information one, and the inverse of the observed information there.

    Raises:
        PlanError: there is none.
    """
    zero = torch.zeros(1, ground.around.size, dtype=torch.float64)
    problem, batch = ground.problem, ground.around.batch(zero)
    complete = ground.curvature_of_q(problem.expect(problem.bind(batch)))
    if complete is None:
        raise PlanError("sensitivity: expected densities that torch can differentiate twice, got one that it cannot.")
    root, failed = torch.linalg.cholesky_ex(complete)
    observed = zero
    if not bool(failed):
        basis = torch.linalg.solve_triangular(root.mT, torch.eye(len(root), dtype=torch.float64), upper=True)
        observed = ground.information(zero[0], basis, FINE)
    if bool(failed) or float(torch.linalg.eigvalsh(observed)[0]) < FLAT:
        raise PlanError(
            "sensitivity: expected a maximum with curvature along every direction, got one that is flat along some: "
            "the parameters are not identified there, and have no derivative."
        )
    return basis, torch.linalg.inv(observed)


def _place(problem: Problem, to: Tensor) -> int | str:
    """Where a tensor stands among the arguments of the model.

    Raises:
        ParameterError: nowhere, or it is of whole numbers.
    """
    program = problem.program
    places: list[tuple[int | str, Any]] = [*enumerate(program.args), *program.kwargs.items()]
    for key, value in places:
        if value is to:
            if not to.is_floating_point():
                raise ParameterError(f"to: expected a tensor of real numbers, got one of {to.dtype}.")
            return key
    raise ParameterError("to: expected one of the tensors that were passed to fit, itself and not a copy.")


@frozen
class _Slope:
    """The gradient of the objective by one argument of the model.

    Attributes:
        problem: the program and its data.
        place: of the argument.
    """

    problem: Problem
    place: int | str

    def __call__(self, params: Params) -> Tensor:
        """At some parameters."""
        program = self._whole.program
        old = program.kwargs[self.place] if isinstance(self.place, str) else program.args[self.place]
        leaf = old.detach().clone().requires_grad_()
        args = tuple(leaf if k == self.place else value for k, value in enumerate(program.args))
        kwargs = {k: leaf if k == self.place else value for k, value in program.kwargs.items()}
        shares = self._shares(params)
        with torch.enable_grad():
            sites = replace(program, args=args, kwargs=kwargs).run(params)
            _check_weights(sites, shares)
            total = sum(self._terms(sites, shares), torch.zeros((), dtype=torch.float64))
            if not total.requires_grad:
                return torch.zeros(old.shape, dtype=torch.float64)
            (found,) = torch.autograd.grad(total, leaf)
        return found.double()

    def _terms(self, sites: Any, shares: dict[str, tuple[Tensor, tuple[str, ...]]]) -> Iterator[Tensor]:
        """Expected log-densities of all sites, and priors, which may have been made of the data."""
        for name, (share, names) in shares.items():
            density = sites[name].log_prob().align(names).double()
            yield torch.where(share > 0, share * density, 0.0).sum()
        for name in self.problem.engine.priors:
            site = sites[name]
            yield (torch.as_tensor(site.scale) * site.log_prob().tensor).sum()

    def _shares(self, params: Params) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """Posterior weights of all sites, with their dimensions."""
        with torch.no_grad():
            engine = self._whole
            replays = engine.replays(engine.moved(engine.bind(_double(params))))
            joint = Joint(replace(engine, joined=engine.factors, units=()), replays)
            return {name: (share, engine.factors[name].names) for name, share in joint.shares().items()}

    @cached_property
    def _whole(self) -> Engine:
        """The engine of all rows by the model's own densities; states inside a site are summed out by itself."""
        full = self.problem.engine.full
        recognition = full.recognition
        return build(full.program, recognition, recognition.runs[0], recognition.priors, {}, recognised=False)


def _check_weights(sites: Mapping[str, Site], names: Iterable[str]) -> None:
    """Refuse weights of rows that are made of the argument: they are in the shares, as numbers.

    Raises:
        PlanError: naming a site.
    """
    for name in names:
        scale = sites[name].scale
        if isinstance(scale, Tensor) and scale.requires_grad:
            raise PlanError(
                f"sensitivity: expected an argument that the weights of rows are not made of, got one that "
                f'poutine.scale of site "{name}" is. Fit again with other weights, and compare.'
            )


def _double(params: Params) -> Batch:
    return batched({name: value.double() for name, value in params.items()})
