"""A latent that is sampled outside of the plate of its rows is named where nothing tells its law."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

X = torch.cat([torch.linspace(-3.0, -1.0, 20), torch.linspace(0.5, 2.5, 20)]).double()
ANSWERS = (torch.arange(160).reshape(40, 4) * 7919 % 10 < 4).double()


def weights() -> Tensor:
    """The law of two states."""
    value: Tensor = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    return value


def once(law: Callable[[Tensor], dist.TorchDistribution]) -> None:
    """One draw for all rows."""
    loc = pyro.param("loc", tensor([0.3, 0.6], dtype=torch.float64))
    z = pyro.sample("z", dist.Categorical(weights()))
    with pyro.plate("rows", len(X)):
        pyro.sample("x", law(loc[z]), obs=X.abs().round())


def items() -> None:
    """A draw for every item in the place of every subject."""
    start = torch.linspace(0.2, 0.7, 8, dtype=torch.float64).reshape(2, 4)
    p = pyro.param("p", start, constraint=constraints.unit_interval)
    with pyro.plate("items", 4, dim=-2):
        z = pyro.sample("z", dist.Categorical(weights()))
        with pyro.plate("subjects", len(ANSWERS), dim=-1):
            pyro.sample("y", dist.Bernoulli(p[z, torch.arange(4).unsqueeze(-1)]), obs=ANSWERS.mT)


def several() -> None:
    """Rows in blocks, and one draw for all of these."""
    loc = pyro.param("loc", tensor([0.3, 0.6], dtype=torch.float64))
    z = pyro.sample("z", dist.Categorical(weights()))
    with pyro.plate("blocks", 2, dim=-2), pyro.plate("rows", 20, dim=-1):
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=X.reshape(2, 20))


def classes() -> None:
    """Two classes on two items, of which there are no more than of subjects: not identified for another reason."""
    start = tensor([[0.3, 0.4], [0.6, 0.5]], dtype=torch.float64)
    p = pyro.param("p", start, constraint=constraints.unit_interval)
    with pyro.plate("subjects", len(ANSWERS), dim=-1):
        z = pyro.sample("z", dist.Categorical(weights()))
        with pyro.plate("items", 2, dim=-2):
            pyro.sample("y", dist.Bernoulli(p[z, torch.arange(2).unsqueeze(-1)]), obs=ANSWERS[:, :2].mT)


def chain() -> None:
    """A state for every step, and two locations of which only the sum is determined."""
    loc, level = pyro.param("loc", tensor([-2.0, 2.0], dtype=torch.float64)), pyro.param("level", tensor(0.0).double())
    stay = pyro.param("stay", tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64), constraint=constraints.simplex)
    state, rows = tensor(0), pyro.plate("rows", 4)
    for step in pyro.markov(range(10)):
        state = pyro.sample(f"z_{step}", dist.Categorical(stay[state]))
        with rows:
            pyro.sample(f"x_{step}", dist.Normal(loc[state] + level, 1.0), obs=X.reshape(10, 4)[step])


def said(model: Callable[..., None], *args: object) -> str:
    """All that a fit notes."""
    pyro.clear_param_store()
    return "\n".join(EM(model).fit(*args).notes)


LAWS = {"Normal": lambda loc: dist.Normal(loc, 1.0), "Poisson": lambda loc: dist.Poisson(loc.exp())}


@pytest.mark.parametrize("law", LAWS)
def test_one_draw_for_all_rows(law: str) -> None:
    """Whatever the family is, and however the M-step goes."""
    notes = said(once, LAWS[law])
    assert "not identified" in notes
    assert 'latent "z" is drawn once, and 40 rows of plate "rows" hang on the same draw' in notes


def test_plates_the_other_way_round() -> None:
    """There are fewer draws than rows on each."""
    assert 'latent "z" is drawn 4 times, and 40 rows of plate "subjects" hang' in said(items)


def test_rows_of_two_plates() -> None:
    """All plates that the observed site has beyond are named."""
    assert '40 rows of plates "blocks", "rows" hang' in said(several)


def test_an_empty_state_is_told_so_too() -> None:
    """From far apart the only draw goes to one of the states."""

    def far() -> None:
        loc = pyro.param("loc", tensor([-9.0, 9.0], dtype=torch.float64))
        z = pyro.sample("z", dist.Categorical(weights()))
        with pyro.plate("rows", len(X)):
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=X + 3)

    pyro.clear_param_store()
    fit = EM(far).fit()
    assert fit.outcome == "empty state"
    assert any('latent "z" is drawn once' in note for note in fit.notes)


@pytest.mark.parametrize("model", [classes, chain])
def test_other_reasons_are_not_taken_for_it(model: Callable[[], None]) -> None:
    """Where there are draws enough, nothing is said of them."""
    notes = said(model)
    assert "not identified" in notes
    assert "drawn" not in notes
