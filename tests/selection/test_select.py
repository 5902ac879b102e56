"""A family of models, each fitted: the table, the best, what fails, and that likelihood does not fall."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, hidden_markov, regressions
from em_pyro.models.data import load
from oracles.agreement import close
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.selection.select as selecting
from em_pyro import EM, DataError, EMError, Fit, ParameterError, Selection, select
from em_pyro.selection.health import narrowest_width, smallest_share
from em_pyro.selection.selection import Candidate

X = gaussian_mixture.simulate(80, 2, 2).double()


def mixtures(K: int) -> Callable[..., None]:
    """Return a mixture of so many components."""
    return partial(gaussian_mixture.full, K=K)


def grid(K: int) -> dict[str, Callable[..., None]]:
    """Return mixtures by the shape of their covariances, under mclust's names."""
    return {
        "VVV": partial(gaussian_mixture.full, K=K),
        "EEE": partial(gaussian_mixture.tied, K=K),
        "VVI": partial(gaussian_mixture.diagonal, K=K),
        "EEI": partial(gaussian_mixture.diagonal, K=K, tied=True),
        "EII": partial(gaussian_mixture.spherical, K=K, tied=True),
    }


@pytest.fixture(scope="module")
def swept() -> Selection:
    """Fit one to three components, once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return select(mixtures, range(1, 4), X, starts=2)
    finally:
        torch.set_default_dtype(before)


def test_a_selection_is_known_by_its_values(swept: Selection) -> None:
    """Fits by value; the best has the smallest BIC."""
    assert list(swept) == [1, 2, 3]
    assert len(swept) == 3
    assert swept.best_value == 2
    assert swept.best is swept[2]
    assert all(isinstance(swept[K], Fit) for K in swept)
    assert swept.best.bic == min(swept[K].bic for K in swept)
    with pytest.raises(KeyError, match="expected one of"):
        swept[7]


def test_likelihood_does_not_fall(swept: Selection) -> None:
    """A component more is never worse, whatever the random starts find."""
    heights = [swept[K].log_likelihood for K in swept]
    assert heights == sorted(heights)


def test_without_splits_it_may_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a start that leads to a poor maximum only a split leads higher."""
    x = torch.cat([X[:, 0], X[:, 0] + 40.0])

    def poor(K: int) -> Callable[..., None]:
        def model(x: Tensor) -> None:
            loc = pyro.param("loc", tensor([0.0, 41.0, 42.0])[:K] if K < 3 else tensor([200.0, 300.0, 400.0]))
            weights = pyro.param("weights", torch.full((K,), 1 / K), constraint=constraints.simplex)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Categorical(weights))
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

        return model

    found = select(poor, (2, 3), x, starts=1)
    assert found[3].log_likelihood >= found[2].log_likelihood
    monkeypatch.setattr(selecting, "split_starts", lambda *_: ([], []))
    without = select(poor, (2, 3), x, starts=1)
    assert without[3].log_likelihood <= found[3].log_likelihood


def test_criteria_by_name_and_by_function(swept: Selection) -> None:
    """The same fits judged otherwise; a function of a fit, smaller is better."""
    assert swept.by("aic").best.aic == min(swept[K].aic for K in swept)
    assert swept.by(lambda fit: -fit.num_parameters).best_value == 3
    assert swept.by("icl").best_value == 2
    for bad in ("BIC", "mdl", 3, None):
        with pytest.raises(ParameterError, match="expected criterion to be one of"):
            swept.by(bad)  # type: ignore[arg-type]


def test_table(swept: Selection) -> None:
    """A row a model, its numbers, and which is best."""
    head, *rows = str(swept).splitlines()[:4]
    for title in ("log-likelihood", "parameters", "AIC", "BIC", "ICL", "entropy", "smallest share", "narrowest"):
        assert title in head
    for K, row in zip(swept, rows, strict=True):
        fit = swept[K]
        for number in (fit.log_likelihood, fit.aic, fit.bic, fit.icl):
            assert f"{number:.3f}" in row
        assert row.split()[2] == str(fit.num_parameters)
        assert "converged" in row
        assert ("<" in row) == (K == 2)
    assert "best by BIC: 2" in str(swept).splitlines()


def test_a_frame_says_what_is_missing(swept: Selection) -> None:
    """Without pandas a sentence; with it a row a model."""
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ModuleNotFoundError, match="expected pandas"):
            swept.to_frame()
        return
    frame = swept.to_frame()
    assert list(frame["value"]) == [1, 2, 3]
    assert list(frame["bic"]) == [swept[K].bic for K in swept]


def test_variants() -> None:
    """The grid of mclust as one call: rows by number and shape, each split from its own smaller fit."""
    found = select(grid, (1, 2), X, starts=1)
    assert list(found) == [(K, name) for K in (1, 2) for name in ("VVV", "EEE", "VVI", "EEI", "EII")]
    assert [found[2, name].num_parameters for name in grid(2)] == [11, 8, 9, 7, 6]
    for name in grid(1):
        assert found[2, name].log_likelihood >= found[1, name].log_likelihood
    assert found.best_value[0] == 2
    assert "variant" in str(found).splitlines()[0]


def test_a_dict_of_values() -> None:
    """Models by name, without numbers."""
    models = {"full": gaussian_mixture.full, "round": gaussian_mixture.spherical}
    found = select(lambda model: model, models, X, starts=1)
    assert list(found) == ["full", "round"]
    assert found["round"].num_parameters < found["full"].num_parameters


def test_what_fails_is_a_row() -> None:
    """An error for one value is told in the table, and the others are fitted."""

    def model_of(K: int) -> Callable[..., None]:
        def model(x: Tensor) -> None:
            if K == 2:
                raise DataError("The model: expected other data, got these. Change them.")
            gaussian_mixture.full(x, K)

        return model

    found = select(model_of, (1, 2, 3), X, starts=1)
    assert found.best_value in (1, 3)
    assert "failed" in str(found)
    assert "2 failed: DataError: The model: expected other data" in str(found)
    with pytest.raises(EMError, match="expected a fit, got none"):
        found[2]
    with pytest.raises(DataError):
        select(model_of, [2], X)


def test_a_bad_ending_is_never_best() -> None:
    """Three rows of which two are equal: two components collapse, to an infinite likelihood."""
    x = tensor([0.0, 0.0, 0.0, 5.0, 5.0, 5.0])
    found = select(lambda K: partial(gaussian_mixture.univariate, K=K), (1, 2), x, starts=1)
    assert found[2].outcome == "degenerate"
    assert found[2].log_likelihood > found[1].log_likelihood
    assert found.best_value == 1
    alone = Selection(found.candidates[1:])
    with pytest.raises(EMError, match="expected a fit that ended at a maximum"):
        _ = alone.best
    assert "no fit ended at a maximum" in str(alone)


def test_a_sliver_is_flagged() -> None:
    """Five rows near a line, and a cloud."""
    faithful = load("faithful")
    x = torch.stack([tensor(faithful["eruptions"]), tensor(faithful["waiting"]).double()], -1)
    weights = tensor([0.35, 0.13, 0.52])
    start = EM(gaussian_mixture.full, starts=20, seed=0).fit(x, 3)
    assert weights.shape == start.params["weights"].shape
    width = narrowest_width(start.prepared, start.params)  # type: ignore[arg-type]
    close(width, 0.0507, 0.01)
    row = Candidate(3, None, start, start.criteria(), smallest_share(start.posterior), width)
    assert row.is_sliver
    assert "!" in str(Selection((row,)))


def test_widths() -> None:
    """One for a single component, in any coordinates the same, none for a regression or a site without a scale."""
    one = EM(gaussian_mixture.full, tol=1e-13).fit(X, 1)
    close(narrowest_width(one.prepared, one.params), 1.0)  # type: ignore[arg-type]
    widths = []
    for x in (X, X @ tensor([[3.0, 0.0], [2.0, 0.01]])):
        pyro.clear_param_store()
        fit = EM(gaussian_mixture.full, tol=1e-13).fit(x)
        widths.append(narrowest_width(fit.prepared, fit.params))  # type: ignore[arg-type]
    close(widths[0], widths[1], 1e-6)
    for model, args in ((regressions.linear, regressions.simulate()), (hidden_markov.poisson, (torch.ones(2, 4),))):
        pyro.clear_param_store()
        fit = EM(model, max_steps=0).fit(*args)
        width = narrowest_width(fit.prepared, fit.params)  # type: ignore[arg-type]
        assert width != width


def test_smallest_share() -> None:
    """Of a mixture its smallest expected weight; of a chain that of all its steps together; by weights of rows."""
    fit = EM(gaussian_mixture.full, max_steps=0).fit(X)
    close(smallest_share(fit.posterior), float(fit.posterior.marginal("component").mean(0).min()))
    pyro.clear_param_store()
    fit = EM(hidden_markov.gaussian, max_steps=0).fit(torch.linspace(-1, 2, 12).reshape(2, 6))
    shares = torch.stack([fit.posterior.marginal(f"state_{t}") for t in range(6)])
    close(smallest_share(fit.posterior), float(shares.mean((0, 1)).min()))


def test_the_store_is_neither_read_nor_changed(earlier_values: None) -> None:
    """What another run has left there does not matter, and stays."""
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    select(mixtures, (1, 2), X, starts=1)
    after = dict(pyro.get_param_store().items())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_options_reach_the_fits() -> None:
    """Those of `EM`, arguments by name, seeds; a progress bar is shown."""
    found = select(
        lambda name: getattr(gaussian_mixture, name), ["full"], X, model_kwargs={"K": 3}, starts=1, max_steps=2
    )
    assert found["full"].params["weights"].shape == (3,)
    assert found["full"].outcome == "step limit"
    one, other = (select(mixtures, [3], X, starts=4, seed=seed, max_steps=1)[3].starts for seed in (0, 1))
    assert [run.objective for run in one][1:] != [run.objective for run in other][1:]


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar over models."""
    select(mixtures, [1], X, starts=1, progress=True)
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"starts": 0}, "expected starts to be a number"),
        ({"starts": {"loc": 1.0}}, "expected starts to be a number"),
        ({"criterion": "mdl"}, "expected criterion"),
        ({"tol": -1.0}, "expected tol"),
        ({"seed": "a"}, "expected seed"),
        ({"K": 2}, r'select: expected options of EM, .*, got "K". Arguments of the model go by name into model_kwargs'),
    ],
)
def test_bad_options(change: dict[str, Any], said: str) -> None:
    """Refused before anything is fitted."""
    with pytest.raises(ParameterError, match=said):
        select(mixtures, [1], X, **change)


def test_nothing_to_fit() -> None:
    """No values, and what is no model."""
    with pytest.raises(ParameterError, match="expected at least one value"):
        select(mixtures, [], X)
    with pytest.raises(ParameterError, match="expected model_of to be a function"):
        select([mixtures], [1], X)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="expected values to go through, got 3"):
        select(mixtures, 3, X)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="to return a model or a dict"):
        select(lambda K: K, [1], X)
    with pytest.raises(ParameterError, match=r"expected model_of\(1\) to return a model, got TypeError"):
        select(lambda x: len(x), [1], X)
