"""The self-check refuses programs on which enumeration is silently wrong, and accepts correct ones like them."""

import pyro
import pytest
import torch
from oracles.engines import laid_out
from programs.registry import NAMES, build
from programs.silently_wrong import CORRECT, WRONG

from em_pyro import EM, ModelError
from em_pyro.e_step.confirm import other_densities
from em_pyro.reading.check import check_structure, check_values

DRAWS = 40
"""Tables and data of wrong programs: of a check that is blind on one draw in ten, 98 in 100 would be noticed."""

FEW = 8
"""Of correct ones, which all of the laws plan too."""


@pytest.mark.parametrize("name", WRONG)
def test_silently_wrong_programs_are_refused(name: str) -> None:
    """All draws of its tables and data are refused, and the store is as it was."""
    for seed in range(DRAWS):
        pyro.clear_param_store()
        model, args = WRONG[name](seed)
        with pytest.raises(ModelError, match="expected"):
            EM(model).fit(*args)
        assert not list(pyro.get_param_store())


@pytest.mark.parametrize("name", CORRECT)
def test_correct_programs_are_accepted(name: str) -> None:
    """No draw is refused, and the global generator stays where it was."""
    state = torch.get_rng_state()
    for seed in range(FEW):
        pyro.clear_param_store()
        model, args = CORRECT[name](seed)
        EM(model).plan(*args)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_device_is_seeded_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed for a device that is not started yet would move its generator when it is."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    case = build("ModuleWithPrior")
    EM(case.model, starts=2, max_steps=1).fit(*case.args)
    assert seeded == []


@pytest.mark.parametrize("name", ["reduced_over_plate", "branch_on_shape"])
def test_without_the_check_they_pass(name: str) -> None:
    """`check=False` lets through what only the comparison with concrete runs can notice."""
    model, args = WRONG[name](0)
    EM(model, check=False).plan(*args)


@pytest.mark.parametrize("name", NAMES)
def test_awkward_programs_are_accepted(name: str) -> None:
    """Every correct program of the laws passes the check, as the laws have laid it out."""
    built = laid_out(name)
    sites = built.recognition.runs[0]
    assert not other_densities(built.compiled)
    check_structure(built.program, {n: factor.names for n, factor in built.compiled.factors.items()}, sites)
    check_values(built.program, built.recognition.values, sites)
