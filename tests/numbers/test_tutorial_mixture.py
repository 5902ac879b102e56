"""The mixture of Pyro's tutorial: its published optimum, and the boundary where its prior has no bound."""

import pyro
import pytest
import torch
from oracles.agreement import prints_as
from oracles.m_steps import same, step
from programs.small.priors import tutorial_mixture
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from pyro.poutine import block
from torch import tensor

from em_pyro import EM

DATA = tensor([0.0, 1.0, 10.0, 11.0, 12.0], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(6))
def test_tutorial_mixture(seed: int) -> None:
    """Pyro's tutorial "Gaussian mixture model", data 0, 1, 10, 11, 12: the interior optimum, from the default start.

    The tutorial's SVI prints weights [0.375 0.625], locs [0.49887 10.98446], scale 0.65143, loss 17.443. Its Adam stops
    7e-5 short in the first location: with the groups told apart, a location is `sum x / (n + scale^2 / 100)`.
    """
    fit = EM(tutorial_mixture, seed=seed, tol=1e-12).fit(DATA)
    assert fit.converged
    order = fit.params["locs"].argsort()
    prints_as(fit.params["weights"][order], "0.375 0.625")
    locs, scale = fit.params["locs"][order], fit.params["scale"]
    same(locs, tensor([1.0, 33.0]) / (tensor([2.0, 3.0]) + scale**2 / 100), 1e-6)
    prints_as(locs[1], "10.98446")
    prints_as(locs[0], "0.49887", units=16)  # see above
    prints_as(fit.params["scale"], "0.65143")
    prints_as(fit.objective, "-17.443")


def test_tutorial_mixture_from_many_starts() -> None:
    """The best of many starts is the interior optimum too: those that left for the boundary rank last."""
    fit = EM(tutorial_mixture, starts=4).fit(DATA)
    assert fit.outcome == "converged"
    prints_as(fit.objective, "-17.443")
    assert fit.starts.found >= 1


def test_the_tutorial_s_own_answer() -> None:
    """Pyro's SVI with AutoDelta, started at the optimum, finds nothing higher: its loss there is 17.443."""
    fit = EM(tutorial_mixture, tol=1e-12).fit(DATA)
    guide = AutoDelta(
        block(tutorial_mixture, expose=["weights", "locs", "scale"]), init_loc_fn=lambda site: fit.params[site["name"]]
    )
    guide(DATA)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(config_enumerate(tutorial_mixture), guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    same(tensor(-svi.evaluate_loss(DATA)), tensor(fit.objective), 1e-6)


def test_one_step_of_the_tutorial_mixture() -> None:
    """The weights' update is that of the pseudo-counts, by hand."""
    start = {"weights": tensor([0.4, 0.6]), "locs": tensor([1.0, 9.0]), "scale": tensor(2.0)}
    fit = EM(tutorial_mixture, starts=start, max_steps=1, tol=0).fit(DATA)
    w = torch.softmax(start["weights"].log() - 0.5 * ((DATA[:, None] - start["locs"]) / 2) ** 2, -1)
    same(fit.params["weights"], (w.sum(0) - 0.5) / (5 - 1))
    assert step(tutorial_mixture, DATA).slope <= 1e-10


def test_a_start_in_the_interior_is_kept() -> None:
    """`EM.params` before a fit holds a value for every site with a prior, inside its support."""
    em = EM(tutorial_mixture)
    em.plan(DATA)
    before = em.step(DATA)
    assert em.step(DATA) <= before
    assert set(em.params) == {"weights", "locs", "scale"}
    assert len(pyro.get_param_store()) == 0


def test_the_boundary_does_not_count() -> None:
    """With next to no rows in one component its weight leaves for zero, where Dirichlet(0.5) is unbounded."""
    start = {"weights": tensor([0.999, 0.001]), "locs": tensor([7.0, -60.0]), "scale": tensor(5.0)}
    fit = EM(tutorial_mixture, starts=start).fit(DATA)
    assert fit.outcome == "prior unbounded"
    assert not fit.converged
    assert fit.objective < 0
    assert any("weights" in note for note in fit.notes)
    assert bool((fit.params["weights"] > 1e-6).all())


def test_the_boundary_ranks_last() -> None:
    """Among starts, one whose prior is unbounded is not the best, whatever it says of its objective."""
    bad = {"weights": tensor([0.999, 0.001]), "locs": tensor([7.0, -60.0]), "scale": tensor(5.0)}
    good = {"weights": tensor([0.5, 0.5]), "locs": tensor([0.0, 10.0]), "scale": tensor(1.0)}
    fit = EM(tutorial_mixture, starts=[bad, good]).fit(DATA)
    assert [run.outcome for run in fit.starts] == ["prior unbounded", "converged"]
    assert fit.starts.best == 1
    prints_as(fit.objective, "-17.443")
