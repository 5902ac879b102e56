"""A class that covariates tell from all others: logits run off together, though no entry does by itself."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import pad

from em_pyro import EM, Fit
from em_pyro.fit.verdict import infinity

X = torch.linspace(-2.0, 2.0, 40, dtype=torch.float64)
DESIGN = torch.stack([torch.ones_like(X), X], -1)
APART = torch.where(X > 0.5, 0, 1 + torch.arange(40) * 7 % 3)
"""The first category is where `X` is large; the others are anywhere below."""
Y = torch.where(X > 0.5, 9.0, torch.where(torch.arange(40) % 3 == 0, 1.5, -1.5)) + (5 * X).sin()


def logits(category: Tensor, *, base: int, places: int = 4) -> None:
    """A regression of categories, one of which has logits of zero."""
    coef = pyro.param("coef", torch.zeros(places - 1, 2, dtype=torch.float64))
    eta = DESIGN @ coef.mT
    with pyro.plate("rows", len(category)):
        eta = torch.cat([eta[:, :base], torch.zeros_like(eta[:, :1]), eta[:, base:]], -1)
        pyro.sample("category", dist.Categorical(logits=eta), obs=category)


def redundant(category: Tensor) -> None:
    """Every category has logits, one more than there is anything to tell."""
    coef = pyro.param("coef", torch.zeros(4, 2, dtype=torch.float64))
    with pyro.plate("rows", len(category)):
        pyro.sample("category", dist.Categorical(logits=DESIGN @ coef.mT), obs=category)


def gate(y: Tensor) -> None:
    """A mixture whose shares go by a covariate."""
    coef = pyro.param("coef", torch.zeros(2, 2, dtype=torch.float64))
    loc = pyro.param("loc", torch.tensor([8.0, 1.0, -1.0], dtype=torch.float64))
    scale = pyro.param("scale", torch.ones(3, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(logits=pad(DESIGN @ coef.mT, (1, 0))))
        pyro.sample("y", dist.Normal(loc[z], scale[z]), obs=y)


def notes(fit: Fit) -> list[str]:
    """What is said of the coefficients, in short."""
    assert fit.converged
    return [note.split(";")[0] for note in fit.notes if "coef" in note]


@pytest.mark.parametrize("model", ["regression", "gate"])
def test_the_base_category_runs_off_from_all_others(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are zero, so all the others run off; what is between them stays. It was called not identified."""
    rows = range(3 if model == "regression" else 2)

    def fitted() -> list[str]:
        pyro.clear_param_store()
        return notes(EM(gate).fit(Y) if model == "gate" else EM(logits).fit(APART, base=0))

    assert fitted() == [
        "runs to infinity: " + ", ".join(f'"coef"[{k}, 0]' for k in rows),
        "runs to minus infinity: " + ", ".join(f'"coef"[{k}, 1]' for k in rows),
    ]
    none = torch.zeros((0, rows.stop * 2 + 6 * (model == "gate")), dtype=torch.float64)
    monkeypatch.setattr(infinity, "_together", lambda *_: (none, none[:, :1], none[:, :1]))
    assert any("not identified" in note for note in fitted())


def test_another_base_has_a_row_that_runs_off() -> None:
    """The same data; then it is one category alone."""
    pyro.clear_param_store()
    found = notes(EM(logits).fit(APART, base=2))
    assert found == ['runs to minus infinity: "coef"[0, 0]', 'runs to infinity: "coef"[0, 1]']


def test_what_is_level_both_ways_does_not_run_off() -> None:
    """A direction along which nothing is told, from values that are not zero, and beside one that runs off."""
    for category, start, words in ((torch.arange(40) * 7 % 4, 30.0, ["not"]), (APART, 0.0, ["runs", "runs", "not"])):
        pyro.clear_param_store()
        values = {"coef": torch.full((4, 2), start, dtype=torch.float64)}
        found = notes(EM(redundant, starts=values).fit(category))
        assert [note.split()[0] for note in found] == words
        assert not any('"coef"[1' in note for note in found if note.startswith("runs"))
