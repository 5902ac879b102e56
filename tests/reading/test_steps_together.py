"""Steps of a loop are compared together, each in its own units."""

from typing import Any, cast

import torch
from oracles.m_steps import same
from torch import Tensor, tensor

from em_pyro.reading.latents.bilinear import Bilinear, Slot, stacked
from em_pyro.reading.latents.constants import wrong_cells
from em_pyro.reading.latents.frames import _effects
from em_pyro.reading.latents.replays import Parts, together

NOISE = 1e-15


def made(scale: float, cells: int = 2) -> Bilinear:
    """Residuals of a site in units of its own: a covariate, and a latent in each cell."""
    one, which = torch.ones(cells).double(), torch.arange(cells)
    return Bilinear(
        cast(Any, None), (), (cells,), (torch.zeros(1).long(),), (("b", 0),), (scale * one[:1], 3 * scale * one),
        (Slot(which, (None, scale * one)),),
    )  # fmt: skip


def test_sites_of_one_form_are_one_residual() -> None:
    """Those of another shape are by themselves, and nothing else changes."""
    sites = {"a": made(1.0), "other": made(1.0, cells=3), "b": made(1e12)}
    params, latents = {"b": tensor([0.5])}, torch.randn(3, generator=torch.Generator().manual_seed(0)).double()
    every = stacked(sites)
    assert [names for names, _ in every] == [("a", "b"), ("other",)]
    for names, both in every:
        found = both.residual(params, latents), both.terms(params, latents)
        for k, name in enumerate(names):
            same(found[0][k] / found[1][k], sites[name].residual(params, latents) / sites[name].terms(params, latents))


def test_each_is_held_to_its_own_units() -> None:
    """What is far off in a small site is nothing beside a large one, and is seen."""
    ((names, both),) = stacked({"small": made(1.0), "large": made(1e12)})
    params, latents = {"b": tensor([0.5]).double()}, tensor([0.3, -0.7]).double()
    location = both.residual(params, latents)

    def wrong(off: Tensor) -> list[list[bool]]:
        value = 2 * location + off
        return wrong_cells(both, params, latents, value, location, NOISE, apart=True).tolist()

    assert names == ("small", "large")
    assert wrong(torch.zeros(2, 2)) == [[False, False], [False, False]]
    assert wrong(tensor([[0.0, 1e-6], [0.0, 1e-6]]).double()) == [[False, True], [False, False]]
    assert wrong(tensor([[0.0, 0.0], [1e6, 0.0]]).double()) == [[False, False], [True, False]]


class Moved:
    """Runs in which three sites of two cells move with the only latent, or leave a rounding of what was added."""

    noise, single = NOISE, False

    def run(self, latents: Tensor, moved: Any) -> Parts:
        """Slopes of 1e-5 and 1e12, and what does not grow: none of it a slope, whatever its own site has beside it."""
        x = float(latents[0])
        own, large, alone = tensor([-1e-5 * x, 0.0]), tensor([-1e12 * x, -1e-5]), tensor([0.0, -1e-3])
        zero = torch.zeros(2)
        return Parts(together({"own": (zero, own), "large": (zero, large), "alone": (zero, alone)}), NAMES)


NAMES = ("own", "large", "alone")


def test_rounding_does_not_grow() -> None:
    """A small slope is one beside the largest of another site; the rounding of what adds up to nothing is none."""
    start = Parts(together({name: (torch.zeros(2), torch.zeros(2)) for name in NAMES}), NAMES)
    ((effects,),) = _effects(cast(Any, Moved()), [tensor([1.0])], start.steps)
    assert effects.tolist() == [[1e-5, 0.0], [1e12, 0.0], [0.0, 0.0]]
