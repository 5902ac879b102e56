"""The pattern of zeros of a Hessian: few products find it, and a wrong one is noticed."""

from collections.abc import Callable

import torch
from oracles.engines import distance, laid_out
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from torch import Tensor

from em_pyro.m_step.ascent.hill import hill_of
from em_pyro.m_step.ascent.pattern import Pattern, folded, pattern_of, whole


def separate(matrix: Tensor) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """Products with a matrix, and a count of them."""
    count = [0]

    def products(vectors: Tensor) -> Tensor:
        count[0] += len(vectors)
        return vectors @ matrix

    return products, count


def test_few_products_find_a_hessian_of_many_items() -> None:
    """Ten items of three parameters each: three products and a check, not thirty."""
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(10)]
    matrix = torch.block_diag(*[block + block.mT for block in blocks])
    order = torch.randperm(30, generator=generator)
    matrix = matrix[order][:, order]
    products, count = separate(matrix)
    pattern = pattern_of(whole(products, matrix[0]))
    assert (pattern.width, count[0]) == (3, 30)
    again = folded(products, pattern, matrix[0])
    assert again is not None
    assert distance(again, matrix) < IDENTITY
    assert count[0] == 30 + 4


def test_a_wrong_pattern_is_noticed() -> None:
    """An entry that was zero by accident: the check says so, and the pattern grows."""
    matrix = torch.eye(4, dtype=torch.float64)
    pattern = pattern_of(matrix)
    matrix[0, 3] = matrix[3, 0] = 0.5
    products, _ = separate(matrix)
    assert folded(products, pattern, matrix[0]) is None
    assert bool(pattern_of(matrix, pattern).mask[0, 3])
    blind = Pattern(pattern.mask, torch.arange(4))  # the fault: as many colours as columns, and nothing to check
    unchecked = folded(products, blind, matrix[0])
    assert unchecked is not None
    assert not torch.equal(unchecked, matrix)


def test_items_are_found_apart_in_a_model() -> None:
    """The Hessian of five items with an intercept and a slope each takes two backward passes."""
    built = laid_out("irt-normal-ogive")
    found = expect(built.compiled, built.here)
    hill = hill_of(built.compiled, found, built.here, built.plan.climbs[0].names)
    full, pattern = hill.curvature(hill.start)
    assert len(full) == 10
    assert pattern.width == 2
    assert distance(hill.curvature(hill.start, pattern)[0], full) < IDENTITY
