"""The zoo: every model runs on what it simulates, from a start that is no saddle; every data set has a provenance."""

from importlib import resources

import pytest
import torch
from em_pyro.models import poisson_mixture
from em_pyro.models.data import load, names
from oracles.agreement import close
from oracles.evidence import log_evidence, start
from oracles.m_steps import same
from programs.zoo import GAUSSIAN, ZOO, simulated

ALL = (*ZOO, *GAUSSIAN)
"""Evidence of the latter is in `test_models_gaussian.py`: Pyro alone does not integrate it."""


@pytest.mark.parametrize("name", ZOO)
def test_runs_on_what_it_simulates(name: str) -> None:
    """The evidence is finite, the same twice, and the starting values are the same twice; no generator moves."""
    generator = torch.get_rng_state()
    model, args = simulated(name)
    assert torch.equal(torch.get_rng_state(), generator)
    first, params = log_evidence(model, *args), start(model, *args)
    assert torch.isfinite(torch.tensor(first))
    close(log_evidence(model, *simulated(name)[1]), first)  # memory that lies otherwise is summed in another order
    again = start(model, *args)
    assert params
    for key, value in params.items():
        same(again[key], value)
    assert all(value.isfinite().all() for value in params.values())


@pytest.mark.parametrize("name", ALL)
def test_seeds_are_used(name: str) -> None:
    """Another seed gives other data; no generator moves."""
    generator = torch.get_rng_state()
    data = [simulated(name, seed=seed)[1][0] for seed in (0, 1)]
    assert torch.equal(torch.get_rng_state(), generator)
    assert data[0].shape != data[1].shape or not torch.equal(data[0], data[1])


CONCAVE = ("linkage-five-cells", "linkage-two-coins", "abo", "transcripts", "tomography")
"""Models whose hidden categories are told apart by known tables: a uniform start is no saddle."""


@pytest.mark.parametrize("name", [name for name in ALL if name not in CONCAVE])
def test_does_not_start_at_a_saddle(name: str) -> None:
    """Where there are components they start different, in one parameter at least."""
    model, args = simulated(name)
    rows = [value for value in start(model, *args).values() if value.dim() and len(value) > 1]
    assert not rows or any(len(value.unique(dim=0)) == len(value) for value in rows)


@pytest.mark.parametrize("name", ALL)
def test_follows_the_dtype_of_the_data(name: str) -> None:
    """Floating-point data decide the dtype; where all data are integers the global default does."""
    model, args = simulated(name)
    floating = any(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in args)
    torch.set_default_dtype(torch.float32)
    want = torch.float64 if floating else torch.float32
    assert {value.dtype for value in start(model, *args).values()} == {want}


def test_a_generator_seeds_a_simulation() -> None:
    """A generator is moved, and two draws from it differ."""
    generator = torch.Generator().manual_seed(0)
    first, second = (poisson_mixture.simulate(seed=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(poisson_mixture.simulate(seed=torch.Generator().manual_seed(0)), first)


@pytest.mark.parametrize("name", names())
def test_data_have_a_provenance(name: str) -> None:
    """Columns of one length, every one of them described in the read-me beside the files."""
    columns = load(name)
    assert len({len(column) for column in columns.values()}) == 1
    readme = resources.files("em_pyro.models.data").joinpath("README.md").read_text(encoding="utf-8")
    (line,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}.csv`")]
    assert f"| {len(next(iter(columns.values())))} |" in line
    assert "`" + ", ".join(columns) + "`" in line


def test_unknown_data_set() -> None:
    """The error lists what there is."""
    with pytest.raises(ValueError, match="expected one of abo, coins"):
        load("iris")
