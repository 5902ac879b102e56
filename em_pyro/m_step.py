"""The M-step: closed forms where the plan has them, torch for the rest, never letting `Q` fall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import transform_to

from .engine import Engine, Expectation
from .errors import ObjectiveError, ParameterError
from .plan import Plan

Params = Mapping[str, Tensor]

STATIONARY = 1e-10  # of the gradient of Q, relative to 1 + |Q|
SWEEPS, JOINTLY = 100, 3
ASCENTS = 200  # iterations of L-BFGS
FLAT = 1e-13  # a gradient of Q at which nothing is left to ascend, relative to 1 + |Q|
FEW, NEWTON = 4, 32  # entries up to which the end of an ascent is polished by Newton steps


def maximise(engine: Engine, plan: Plan, found: Expectation, params: Params, lead: int = 0) -> dict[str, Tensor]:
    """Return `argmax Q` (for torch parameters, a `Q` that did not fall), given the expected statistics `found`."""
    statistics = {name: engine.leaders[name].split(part, lead) for name, part in found.statistics.items()}
    new = dict(params)
    together = tuple(n for n, line in plan.lines.items() if line.how in ("swept", "torch"))
    for sweep in range(SWEEPS if plan.swept else 1):
        for solver in plan.solvers:
            new |= solver.solve(statistics, new, lead)
        if plan.torch:
            new |= ascend(engine, found, new, plan.torch, polish=plan.swept)
        if not plan.swept or _stationary(engine, plan, found, new):
            break
        if sweep >= JOINTLY:  # conditional maxima creep along a ridge; a joint ascent does not
            new |= ascend(engine, found, new, together, polish=True)
            if _stationary(engine, plan, found, new):
                break
    for name, call in plan.callables.items():
        new = _called(engine, name, call, statistics, found, new)
    return new


def _stationary(engine: Engine, plan: Plan, found: Expectation, params: Params) -> bool:
    value, slopes = gradient(engine, found, params, plan.free)
    return all(float(slope.abs().max()) <= STATIONARY * (1 + abs(value)) for slope in slopes.values() if slope.numel())


def gradient(
    engine: Engine, found: Expectation, params: Params, names: Sequence[str]
) -> tuple[float, dict[str, Tensor]]:
    """`Q` and its gradient in unconstrained coordinates, zero where a coordinate is infinite.

    At the parameters of the E-step this is the gradient of the objective itself (Fisher's identity).
    """
    points = {name: unconstrained(engine, name, params[name]) for name in names}
    return _value_and_gradient(engine, found, params, points)


def unconstrained(engine: Engine, name: str, value: Tensor) -> Tensor:
    """The point that the constraint's transform carries onto `value`."""
    return transform_to(engine.program.parameters[name].constraint).inv(value.double())


def constrained(engine: Engine, name: str, point: Tensor) -> Tensor:
    """The parameter at an unconstrained point."""
    return transform_to(engine.program.parameters[name].constraint)(point)


def _value_and_gradient(
    engine: Engine, found: Expectation, params: Params, points: Params
) -> tuple[float, dict[str, Tensor]]:
    leaves = {name: point.detach().clone().requires_grad_() for name, point in points.items()}
    with torch.enable_grad():
        values = dict(params) | {name: constrained(engine, name, leaf) for name, leaf in leaves.items()}
        weights = {
            name: weight
            for name in leaves
            if (weight := engine.program.parameters[name].tensor) is not None and (engine.replayed or engine.inside)
        }
        with engine.program.given({name: values[name] for name in weights}):
            q = engine.q(values, found)
            if not q.requires_grad:
                return float(q), {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
            targets = [*leaves.values(), *weights.values()]
            grads = torch.autograd.grad(q, targets, allow_unused=True)
    slopes = {}
    for (name, leaf), slope in zip(leaves.items(), grads, strict=False):
        slope = torch.zeros_like(leaf) if slope is None else slope
        slopes[name] = torch.where(torch.isfinite(leaf), slope, 0.0)
    for name, slope in zip(weights, grads[len(leaves) :], strict=True):
        if slope is not None:
            slopes[name] = slopes[name] + slope.double()
    return float(q.detach()), slopes


def ascend(
    engine: Engine, found: Expectation, params: Params, names: Sequence[str], *, polish: bool = False
) -> dict[str, Tensor]:
    """Maximise `Q` over some parameters by L-BFGS in unconstrained space; keep the old values unless `Q` rose.

    Raises:
        ObjectiveError: `Q` has no finite value or gradient at the current parameters.
    """
    points = {name: unconstrained(engine, name, params[name]) for name in names}
    points = {name: torch.where(torch.isfinite(p), p, p.sign().nan_to_num() * 40.0) for name, p in points.items()}
    old, slopes = _value_and_gradient(engine, found, params, points)
    bad = [name for name, slope in slopes.items() if not bool(torch.isfinite(slope).all())]
    if bad or old != old:
        raise ObjectiveError(
            f'Parameter "{(bad or list(names))[0]}": expected a finite gradient of Q, got nan at '
            f"{params[(bad or list(names))[0]]}. Keep its function in the model differentiable there (xlogy, where)."
        )
    flat = torch.cat([p.reshape(-1) for p in points.values()]).clone().requires_grad_()
    scale = 1.0 + abs(old)
    steep = max((float(s.abs().max()) for s in slopes.values() if s.numel()), default=0.0)
    if steep <= FLAT * scale:
        return {name: params[name] for name in names}

    def cut(vector: Tensor) -> dict[str, Tensor]:
        parts, at = {}, 0
        for name, point in points.items():
            parts[name] = vector[at : at + point.numel()].reshape(point.shape)
            at += point.numel()
        return parts

    def loss() -> float:
        try:
            value, slope = _value_and_gradient(engine, found, params, cut(flat.detach()))
        except (ValueError, torch.linalg.LinAlgError):
            value, slope = -torch.inf, cut(torch.zeros_like(flat))
        flat.grad = -torch.cat([s.reshape(-1) for s in slope.values()]).nan_to_num(0.0) / scale
        return -value / scale if value == value else torch.inf

    optimiser = torch.optim.LBFGS(
        [flat], max_iter=ASCENTS, history_size=20, tolerance_grad=1e-13, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    optimiser.step(loss)
    if flat.numel() <= (NEWTON if polish else FEW):
        flat = _polished(engine, found, params, flat.detach(), cut)
    solved = {name: constrained(engine, name, point).detach() for name, point in cut(flat.detach()).items()}
    if all(bool(torch.isfinite(v).all()) for v in solved.values()):
        new, slopes = _value_and_gradient(engine, found, params, cut(flat.detach()))
        left = max((float(s.abs().max()) for s in slopes.values() if s.numel()), default=0.0)
        if new > old or (new >= old - 1e-14 * scale and left < steep):
            return solved
    return {name: params[name] for name in names}


def _polished(
    engine: Engine, found: Expectation, params: Params, flat: Tensor, cut: Callable[[Tensor], dict[str, Tensor]]
) -> Tensor:
    """Newton steps from where L-BFGS can no longer tell values apart; each is kept only if the gradient shrinks."""

    def slope_at(point: Tensor) -> tuple[float, Tensor]:
        value, slopes = _value_and_gradient(engine, found, params, cut(point))
        return value, torch.cat([s.reshape(-1) for s in slopes.values()])

    value, slope = slope_at(flat)
    for _ in range(8):
        size = slope.abs().max()
        if float(size) <= FLAT * (1 + abs(value)):
            break
        step = 1e-5 * (1 + flat.abs())
        rows = [(slope_at(flat + e)[1] - slope_at(flat - e)[1]) / (2 * e.max()) for e in torch.diag(step)]
        hessian = torch.stack(rows)
        hessian = (hessian + hessian.mT) / 2
        if not bool(torch.isfinite(hessian).all()):
            break
        curvature, axes = torch.linalg.eigh(hessian)
        flat_direction = 1e-7 * curvature.abs().max()  # a simplex has one: adding a constant to all its logits
        if float(curvature.max()) > float(flat_direction):
            break
        along = torch.where(curvature < -flat_direction, (axes.mT @ slope) / curvature, 0.0)
        trial = flat - axes @ along
        new, new_slope = slope_at(trial)
        if not (new >= value - 1e-12 * (1 + abs(value)) and float(new_slope.abs().max()) < float(size)):
            break
        flat, value, slope = trial, new, new_slope
    return flat


def _called(
    engine: Engine,
    name: str,
    call: object,
    statistics: Mapping[str, tuple[Tensor, ...]],
    found: Expectation,
    params: Params,
) -> dict[str, Tensor]:
    """Apply the user's own M-step for one parameter, and hold it to a `Q` that does not fall."""
    value = torch.as_tensor(call(statistics, params[name])).double()  # type: ignore[operator]
    parameter = engine.program.parameters[name]
    if value.shape != params[name].shape or not bool(parameter.constraint.check(value).all()):
        raise ParameterError(
            f'm_step["{name}"]: expected a value of shape {tuple(params[name].shape)} within {parameter.constraint}, '
            f"got {value}. Return the new value of the parameter."
        )
    before, after = float(engine.q(params, found)), float(engine.q(dict(params) | {name: value}, found))
    if after < before - 1e-10 * (1 + abs(before)):
        raise ObjectiveError(
            f'm_step["{name}"]: expected Q not to fall, got {after:.12g} after {before:.12g}. Return a value that is '
            f"at least as good, or leave the parameter to the plan."
        )
    return dict(params) | {name: value}
