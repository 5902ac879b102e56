"""A Pyro model as an estimator of scikit-learn: its own checks, and what pipelines and searches do with it."""

import functools
import inspect
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, ParameterError

pytest.importorskip("sklearn", reason="scikit-learn is optional: pip install -e '.[sklearn]'")
from sklearn.base import clone  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from em_pyro.sklearn import OWN, EMEstimator  # noqa: E402

Array = npt.NDArray[np.float64]

EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "the initialisers of the model draw their starts of the rows as they are given, so that weights and repeated "
        "rows begin elsewhere; from equal starts they agree (`test_weights_are_repeated_rows`)"
    ),
    "check_array_api_input": "X becomes a tensor of torch on the CPU",
}


def mixture() -> EMEstimator:
    """Return two normals."""
    return EMEstimator(gaussian_mixture.full, model_kwargs={"K": 2}, max_steps=200)


def named(value: Any) -> str:
    """Name an estimator or a check by what it is; scikit-learn's own names have the address of the model in them.

    Processes that share the tests out must collect the same ones.
    """
    if not isinstance(value, functools.partial):
        return type(value).__name__
    given = ", ".join(f"{name}={worth}" for name, worth in value.keywords.items())
    return f"{value.func.__name__}({given})"


@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(mixture(), expected_failed_checks=EXCEPTIONS, mark="xfail")),
    ids=named,
)
def test_what_scikit_learn_asks_of_an_estimator(estimator: Any, check: Any) -> None:
    """All of its own checks, but those that are named above, with the reason."""
    check(estimator)


@pytest.fixture(name="rows")
def two_clusters() -> Array:
    """Return two clusters."""
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(size=(60, 2)), [4.0, 1.0] + 0.5 * generator.normal(size=(40, 2))])


def two(x: Tensor) -> None:
    """Mix two normals, from starts that no data enter."""
    weights = pyro.param("weights", torch.tensor([0.5, 0.5]).double(), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([[0.0, 0.0], [3.0, 0.0]]).double())
    scale = pyro.param("scale", torch.ones(2, 2).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


def test_options_are_those_of_em() -> None:
    """Every one of them is in the signature, with the same default."""
    ours, theirs = (inspect.signature(one).parameters for one in (EMEstimator, EM))
    assert {n: p.default for n, p in ours.items() if n not in OWN} == {
        n: p.default for n, p in theirs.items() if n not in OWN
    }


def test_it_is_scikit_learns_mixture(rows: Array) -> None:
    """From the same start both end at the same maximum."""
    fit = EMEstimator(two, tol=1e-12).fit(rows)
    start = {"means_init": [[0.0, 0.0], [3.0, 0.0]], "weights_init": [0.5, 0.5], "precisions_init": np.ones((2, 2))}
    peer = GaussianMixture(2, covariance_type="diag", tol=1e-13, reg_covar=0, max_iter=1000, **start).fit(rows)
    np.testing.assert_allclose(fit.params_["loc"], peer.means_, atol=SOLVERS)
    np.testing.assert_allclose(fit.score_samples(rows), peer.score_samples(rows), atol=SOLVERS)
    np.testing.assert_allclose(fit.predict_proba(rows), peer.predict_proba(rows), atol=SOLVERS)
    assert (fit.predict(rows) == peer.predict(rows)).all()
    assert fit.bic(rows) == pytest.approx(peer.bic(rows), abs=SOLVERS)
    assert fit.aic(rows) == pytest.approx(peer.aic(rows), abs=SOLVERS)
    assert fit.score(rows) == pytest.approx(peer.score(rows), abs=SOLVERS)


def test_weights_are_repeated_rows(rows: Array) -> None:
    """Weights of whole numbers are rows that are there so often; of zero, rows that are not there."""
    times = np.arange(len(rows)) % 3
    weighted, repeated = EMEstimator(two).fit(rows, sample_weight=times), EMEstimator(two).fit(rows.repeat(times, 0))
    np.testing.assert_allclose(weighted.params_["loc"], repeated.params_["loc"], atol=SOLVERS)
    np.testing.assert_allclose(weighted.score_samples(rows), repeated.score_samples(rows), atol=SOLVERS)


def test_searches_and_pipelines(rows: Array) -> None:
    """The number of components is a parameter to search over; a pipeline scores by the estimator's score."""
    search = GridSearchCV(mixture(), {"model_kwargs__K": [1, 2]}, cv=3).fit(rows)
    assert search.best_params_ == {"model_kwargs__K": 2}
    pipeline = make_pipeline(StandardScaler(), mixture())
    assert cross_val_score(pipeline, rows, cv=3).shape == (3,)
    copy = clone(mixture().set_params(model_kwargs__K=3, starts=4))
    assert (copy.model_kwargs, copy.starts) == ({"K": 3}, 4)


def test_a_copy_from_a_file_predicts(rows: Array) -> None:
    """What pickle gives back has no data, and needs none."""
    fit = EMEstimator(two).fit(rows)
    there = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(there.predict_proba(rows[:1]), fit.predict_proba(rows[:1]), atol=IDENTITY)
    drawn = there.sample(5, seed=3)["x"]
    assert drawn.shape == (5, 2)
    np.testing.assert_array_equal(drawn, fit.sample(5, seed=3)["x"])


def test_the_param_store_is_left_alone(rows: Array) -> None:
    """A fit of an estimator is nobody else's."""
    pyro.clear_param_store()
    EMEstimator(two).fit(rows)
    assert not list(pyro.get_param_store())


def test_bad_arguments(rows: Array) -> None:
    """Each is named."""
    fit = EMEstimator(two, latent="who").fit(rows)
    with pytest.raises(ParameterError, match="expected latent to be one of"):
        fit.predict(rows)
    for many in (0, -1, 2.5):
        with pytest.raises(ParameterError, match="expected n_samples to be a number of rows of at least one"):
            fit.sample(many)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="expected model_kwargs to be a dict"):
        EMEstimator(two, model_kwargs=3).fit(rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="plate of 100 independent rows"):
        EMEstimator(lambda x: two(x[:50])).fit(rows)
