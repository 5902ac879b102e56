"""Normal equations of unknowns that never meet: by blocks they are what they are as one matrix."""

import pytest
import torch
from oracles.agreement import close
from torch import Tensor

from em_pyro.families.charts import CHARTS
from em_pyro.m_step.least_squares.equations import Equations
from em_pyro.program.named import connected
from em_pyro.reading.joined import BlockDiagonal, Joined
from em_pyro.reading.predictor import Affine, Piece

CELLS, J = 4, 3
DOUBLE = torch.float64


def design(index: Tensor, value: Tensor) -> Affine:
    """Predictors of three coefficients in each of four cells."""
    return Affine((), torch.zeros((CELLS, J), dtype=DOUBLE), (Piece(index, value),), CHARTS[0])


def numbers(starts: int = 2) -> tuple[Tensor, Tensor]:
    """What every cell has: a right side, and a matrix with an inverse."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn((starts, CELLS, J, J), generator=generator, dtype=DOUBLE)
    return torch.randn((starts, CELLS, J), generator=generator, dtype=DOUBLE), root @ root.mT + torch.eye(J)


PAIRS = torch.tensor([[0, 1], [2, -1], [3, 4]])

DESIGNS = {
    "entries of their own": (torch.arange(12).reshape(CELLS, J, 1), torch.ones((1, 1, 1), dtype=DOUBLE)),
    "one in common": (
        torch.arange(12).reshape(CELLS, J, 1).index_fill(0, torch.tensor(1), 0),
        torch.ones((1, 1, 1), dtype=DOUBLE),
    ),
    "sums of two, and none": (
        torch.where(PAIRS < 0, -1, PAIRS + 5 * torch.tensor([0, 1, 0, 1])[:, None, None]),
        torch.linspace(0.5, 2.0, CELLS * J * 2, dtype=DOUBLE).reshape(CELLS, J, 2),
    ),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_blocks_hold_what_the_whole_matrix_holds(name: str) -> None:
    """Products by the places of a block-diagonal matrix are those with a dense design; nothing is outside."""
    index, value = DESIGNS[name]
    size = int(index.max()) + 1
    meetings = [[int(i) for i in cell.flatten() if i >= 0] for cell in index]
    form = BlockDiagonal.of(connected(range(size), meetings), size)
    slope, weight = numbers()
    dense = torch.zeros((CELLS, J, size + 1), dtype=DOUBLE)
    dense.scatter_add_(2, index % (size + 1), value.expand(index.shape).contiguous())
    dense = dense[..., :size]
    matrix, right = Joined.of(design(index, value), form)(slope, weight)
    whole = torch.einsum("cjp,scjk,ckq->spq", dense, weight, dense)
    close(right, torch.einsum("cjp,scj->sp", dense, slope))
    close(matrix, form.taken(whole))
    close(matrix[:, form.diagonal], whole.diagonal(dim1=-2, dim2=-1))
    outside = whole.abs().sum() - sum(block.abs().sum() for block in form.blocks(matrix))
    assert abs(float(outside)) < 1e-10 * float(whole.abs().sum())


def test_a_set_without_an_inverse_leaves_the_others_alone() -> None:
    """It is solved by the smallest change; what the other sets and starts find does not depend on it."""
    equations, old = Equations({"b": 4}, BlockDiagonal.of([[0, 1], [2, 3]], 4)), torch.zeros((2, 4), dtype=DOUBLE)
    sound, singular = torch.tensor([2.0, 0.5, 0.5, 1.0]).double(), torch.tensor([1.0, 1.0, 1.0, 1.0]).double()
    matrix = torch.stack([torch.cat([sound, sound]), torch.cat([singular, sound])])
    right = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 4.0]]).double()
    found = equations.solve(matrix, right, {"b": old})["b"]
    want = torch.linalg.solve(sound.reshape(2, 2), right.reshape(2, 2, 2).mT).mT
    close(found[0], want[0].reshape(-1))
    close(found[1, 2:], want[1, 1])
    close(found[1, :2], torch.tensor([0.5, 0.5]))
    assert torch.equal(found[0, 2:], found[1, 2:])
