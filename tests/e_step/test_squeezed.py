"""Many components of one precision are replaced by few rows with the same second moments, some at a time."""

import pytest
import torch
from oracles.agreement import close
from oracles.sizes import Largest
from oracles.tolerances import IDENTITY

from em_pyro.e_step.gaussian import squeeze

MEMBERS, WIDTH = 3_000, 5


@pytest.mark.parametrize("repeated", [False, True])
def test_slices_have_the_moments_of_all(monkeypatch: pytest.MonkeyPatch, *, repeated: bool) -> None:
    """Whatever the slices, `R'R` is `X'X`, weights included; and no slice is much larger than asked for."""
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randn((MEMBERS, k), generator=generator) + 10.0 for k in (1, WIDTH - 1)]
    repeats = torch.rand(MEMBERS, generator=generator) + 0.5 if repeated else None
    some = torch.arange(0, MEMBERS, 2)
    matrix = torch.cat(columns, 1)[some]
    weighted = matrix if repeats is None else matrix * repeats[some].unsqueeze(-1)
    for rows in (100, 997, 10**9):
        monkeypatch.setattr(squeeze, "ROWS", rows)
        with Largest() as largest:
            found = squeeze._moments(columns, some, repeats, WIDTH)
        assert found.shape == (WIDTH, WIDTH)
        close(found.mT @ found / MEMBERS, matrix.mT @ weighted / MEMBERS, IDENTITY)
        assert rows > MEMBERS or largest.size < 8 * (rows + (5 * WIDTH) ** 2) < 8 * matrix.numel()


def test_few_members_stay() -> None:
    """As many members as columns, or fewer, are what they were."""
    columns = [torch.arange(4.0).unsqueeze(-1), torch.ones(4, 5)]
    some = torch.tensor([2, 0])
    assert torch.equal(squeeze._moments(columns, some, None, 6), torch.cat(columns, 1)[some])
