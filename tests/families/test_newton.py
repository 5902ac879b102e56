"""What Newton is given of a Student: its slopes, its curvatures, and a step that no start is too far for."""

from collections.abc import Callable

import pytest
import torch
from oracles.agreement import close
from torch import Tensor, tensor

import em_pyro.families.heavy_tailed
from em_pyro.families.heavy_tailed import StudentT, _near
from em_pyro.families.newton import Near, climb
from em_pyro.families.rowwise import RowFamily

LOC, UNIT = tensor([0.0, 5.0, -50.0]).double(), tensor([1.0, 0.1, 9.0]).double()
POINTS = {
    "near": tensor([[0.1, 0.2, 1.0], [-4.0, 2.0, 2.0], [5.0, 1.0, 0.0]]).double(),
    "far": tensor([[40.0, -3.0, 5.0], [0.0, 0.0, 0.0], [0.0, -2.0, -1.0]]).double(),
}


def rows() -> tuple[Tensor, Tensor]:
    """Values and weights of three cells."""
    draw = torch.Generator().manual_seed(0)
    return 1 + 2 * torch.randn(3, 200, generator=draw), torch.rand(3, 200, generator=draw)


def near(point: Tensor) -> Near:
    """A Student's `Q` there."""
    value, weights = rows()
    return _near(value, weights, weights.sum(-1), LOC, UNIT, point)


def q(point: Tensor) -> Tensor:
    """The same from its density."""
    value, weights = rows()
    args = {"loc": LOC + UNIT * point[..., 0], "scale": point[..., 1].exp(), "df": point[..., 2].exp()}
    return (weights * StudentT().log_prob(value, {key: part.unsqueeze(-1) for key, part in args.items()})).sum(-1)


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_slopes_are_those_of_the_density(point: Tensor) -> None:
    """Value, slope and Hessian, by automatic differentiation of the density."""
    found = near(point)
    close(found.value, q(point))
    slope = torch.autograd.functional.jacobian(lambda p: q(p).sum(), point)
    close(found.slope, slope)
    hessian = torch.autograd.functional.hessian(lambda p: q(p).sum(), point)
    for cell in range(len(point)):
        close(found.hessian[cell], hessian[cell, :, cell])


@pytest.mark.parametrize("starts", [1, 2])
def test_a_weighed_total_is_differentiated_twice_as_its_density(starts: int) -> None:
    """Of several starts at once, each under weights of its own or all under the same, and where rows have none."""
    value, weights = rows()
    weights = torch.stack([weights, weights.flip(-1)])[:starts]
    weights[0, 1, :150] = 0.0
    point = torch.stack([*POINTS.values()])

    def derivatives(weighed: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaf = point.clone().requires_grad_()
        args = {"df": leaf[..., 2:].exp(), "loc": leaf[..., :1], "scale": leaf[..., 1:2].exp()}
        found = weighed(StudentT(), value, weights, args)
        (slope,) = torch.autograd.grad(found.sum(), leaf, create_graph=True)
        bends = [torch.autograd.grad(slope[..., k].sum(), leaf, retain_graph=True)[0] for k in range(3)]
        return found.detach(), slope.detach(), torch.stack(bends)

    for ours, theirs in zip(derivatives(StudentT.weighed), derivatives(RowFamily.weighed), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("block", [1, 100, 599])
def test_blocks_of_rows_add_up(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are summed at a time."""
    whole = near(POINTS["near"])
    monkeypatch.setattr(em_pyro.families.heavy_tailed, "BLOCK", block)
    apart = near(POINTS["near"])
    for ours, theirs in ((apart.value, whole.value), (apart.slope, whole.slope), (apart.hessian, whole.hessian)):
        close(ours, theirs)


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
@pytest.mark.parametrize("free", [(True, True), (True, False), (False, True)])
def test_the_safe_step_does_not_fall(point: Tensor, free: tuple[bool, bool]) -> None:
    """Whatever moves, `Q` is no lower, and what is fixed stays."""
    moving = tensor([*free, False]).expand_as(point)
    new = near(point).safely(moving)
    assert bool((q(new) >= q(point)).all())
    assert torch.equal(new[~moving], point[~moving])


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_the_end_is_flat(point: Tensor) -> None:
    """Where Newton stops, no slope is left; a bound from above holds."""
    everything, endless = torch.ones_like(point, dtype=torch.bool), torch.full_like(point, torch.inf)
    upper = endless.clone()
    upper[..., 2] = 3.0
    found = climb(near, point, everything, upper)
    slope = near(found).slope
    inside = found < upper
    assert bool((slope.abs() < 1e-6)[inside].all())
    assert bool((slope > 0)[~inside].all())
    assert bool((found <= upper).all())


def test_a_function_that_says_a_wrong_slope_does_not_fall() -> None:
    """Newton asks for the value: a slope of the wrong sign leads nowhere."""

    def lying(point: Tensor) -> Near:
        told = near(point)
        return Near(told.value, -told.slope, told.hessian, identity(point))

    def identity(point: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda moving: point

    start = POINTS["near"]
    endless = torch.full_like(start, torch.inf)
    found = climb(lying, start, torch.ones_like(start, dtype=torch.bool), endless)
    assert bool((q(found) >= q(start)).all())
