"""What users pass: other kinds of data are converted or refused by name, and so are starts and states."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.refusals import refuse
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError

X = [0.0, 0.5, 0.25, 3.0, 3.5, 2.75, 0.125]


class Frame:
    """A table as pandas has them: columns by name, and no method of a tensor."""

    def __init__(self, **columns: list[float]) -> None:
        """Take the columns."""
        self.columns = columns

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """Return one column."""
        return np.asarray(self.columns[name])

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """Return all columns, or the only one."""
        return np.stack([np.asarray(c) for c in self.columns.values()], -1).squeeze(-1)


def points(x: Any, law: Callable[[Tensor], Any] = lambda m: dist.Normal(m, 1.0)) -> None:
    """Two components on a line; the data are only counted and observed."""
    loc = pyro.param("loc", tensor([0.5, 2.0], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", law(loc[z]), obs=x)


def moved(x: Any) -> None:
    """The same, with arithmetic that only a tensor can do."""
    points(x.clone() + torch.zeros(len(x)))


def by_column(x: Any) -> None:
    """Take a column by its name."""
    points(x["x"])


KINDS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.array(X),
    "array of single precision": lambda: np.array(X, dtype=np.float32),
    "big-endian": lambda: np.array(X, dtype=">f8"),
    "backwards twice": lambda: np.array(X[::-1])[::-1],
    "read-only": lambda: np.broadcast_to(np.array(X), (7,)),
    "objects": lambda: np.array(X, dtype=object),
    "frame": lambda: Frame(x=X),
    "list": lambda: list(X),
    "half": lambda: tensor(X, dtype=torch.float16),
    "bfloat16": lambda: tensor(X, dtype=torch.bfloat16),
}  # fmt: skip


@cache
def answer() -> float:
    """The log-likelihood of five steps on a tensor."""
    with pyro.get_param_store().scope():
        return EM(points, max_steps=5).fit(tensor(X, dtype=torch.float64)).log_likelihood


@pytest.mark.parametrize("model", [points, moved])
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_other_kinds(kind: str, model: Any) -> None:
    """The answer is that of a tensor, whether the model can use what is passed or not; so is a posterior."""
    if model is moved and kind in ("half", "bfloat16"):
        return
    got = EM(model, max_steps=5).fit(KINDS[kind]())
    close(got.log_likelihood, answer(), 1e-6)
    close(got.posterior_on(KINDS[kind]()).log_evidence, answer(), 1e-6)


def test_a_frame_reaches_a_model_that_knows_its_columns() -> None:
    """Nothing is converted that the model can use."""
    want = EM(points, max_steps=5).fit(tensor(X, dtype=torch.float64))
    pyro.clear_param_store()
    close(EM(by_column, max_steps=5).fit(Frame(x=X)).log_likelihood, want.log_likelihood, IDENTITY)


@pytest.mark.parametrize("name", ["Normal", "Bernoulli", "Poisson", "Categorical"])
def test_whole_numbers(name: str) -> None:
    """The answer is that of the same numbers in floating point (for a category, in int64)."""
    laws: dict[str, Callable[[Tensor], Any]] = {
        "Normal": lambda m: dist.Normal(m, 1.0),
        "Bernoulli": lambda m: dist.Bernoulli(m / 5),
        "Poisson": lambda m: dist.Poisson(m),
        "Categorical": lambda m: dist.Categorical(torch.stack([m, 5 - m], -1) / 5),
    }
    x = tensor([1, 0, 1, 1, 0, 0, 1])
    plain = x if name == "Categorical" else x.double()
    want = EM(points, max_steps=3).fit(plain, laws[name]).log_likelihood
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64):
        pyro.clear_param_store()
        close(EM(points, max_steps=3).fit(x.to(dtype), laws[name]).log_likelihood, want, IDENTITY)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_labels_of_a_partly_observed_bernoulli(dtype: torch.dtype) -> None:
    """Labels are numbers of any kind."""

    def model(x: Tensor, label: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 2.0], dtype=torch.float64))
        with pyro.plate("rows", len(x)):
            known = torch.arange(len(x)) < 4
            z = pyro.sample("z", dist.Bernoulli(tensor(0.5)), obs=label, obs_mask=known)
            pyro.sample("x", dist.Normal(loc[z.long()], 1.0), obs=x)

    x, label = tensor(X, dtype=torch.float64), tensor([0, 0, 0, 1, 1, 1, 0])
    want = EM(model, max_steps=3).fit(x, label.double()).log_likelihood
    pyro.clear_param_store()
    close(EM(model, max_steps=3).fit(x, label.to(dtype)).log_likelihood, want, 1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_truth_values_along_a_chain(dtype: torch.dtype) -> None:
    """Of a DiscreteHMM with a Bernoulli emission, which torch computes of floating point only."""

    def model(x: Tensor) -> None:
        moves = pyro.param("moves", tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
        probs = pyro.param("probs", tensor([0.3, 0.9]), constraint=constraints.unit_interval)
        start = tensor([0.5, 0.5]).log()
        pyro.sample("x", dist.DiscreteHMM(start, moves.log(), dist.Bernoulli(probs), duration=len(x)), obs=x)

    x = tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    want = EM(model, max_steps=3).fit(x).path
    pyro.clear_param_store()
    close(tensor(EM(model, max_steps=3).fit(x.to(dtype)).path), tensor(want), 1e-6)


REFUSED: dict[str, tuple[Any, str]] = {
    "text": (np.array(["a", "b"]), "got ndarray"),
    "dates": (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"), "got ndarray"),
    "a ragged list": ([[1.0], [1.0, 2.0]], "got list"),
    "complex": (torch.ones(3, dtype=torch.complex128), r"real numbers, got .*j\)? at index \(0,\)"),
    "none at a place": (np.array([1.0, None, 2.0], dtype=object), "got ndarray"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data(kind: str) -> None:
    """The site is named."""
    data, got = REFUSED[kind]
    refuse("data", rf'^Site "x": expected .*{got}', points, data)


def by_shape(x: Any) -> None:
    """The same by attributes that only tensors and arrays have."""
    with pyro.plate("rows", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.param("m", tensor(0.5)), 1.0), obs=x)


STUMBLED = {"None": None, "text": "abc", "a ragged list": [[1.0], [2.0, 3.0]], "a number": 1.0, "0-d": tensor(1.0)}


@pytest.mark.parametrize("kind", STUMBLED)
def test_what_the_model_itself_stumbles_over(kind: str) -> None:
    """The argument is named, and what the model raised: of `len` and of `shape`, in a word or by position."""
    for model in (points, by_shape):
        if model is by_shape or kind in ("None", "a number", "0-d"):  # others have a length
            said = r'^Argument "x": expected .* it raised (TypeError|AttributeError|IndexError): '
            refuse("data", said, model, STUMBLED[kind])


def sized(x: Tensor, count: Any = 2, *, width: float = 1.0) -> None:
    """A mixture with as many components as an argument says."""
    weights = pyro.param("weights", torch.ones(count) / count, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.arange(float(count)))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], width), obs=x)


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "nothing": ((), {}, "missing a required argument: 'x'"),
    "too much": ((tensor(X), 2, 3), {}, "too many positional arguments"),
    "a name it has not": ((tensor(X),), {"counts": 3}, "unexpected keyword argument 'counts'"),
    "twice": ((tensor(X),), {"x": tensor(X)}, "multiple values for argument 'x'"),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("method", ["plan", "step", "fit", "posterior", "posterior_on"])
def test_a_call_that_the_model_does_not_take(kind: str, method: str) -> None:
    """What it lacks is said, and what the model takes: by a fit that has rows already, too."""
    args, kwargs, lacking = CALLS[kind]
    asked = EM(sized, max_steps=2).fit(tensor(X)) if method == "posterior_on" else EM(sized)
    with pytest.raises(DataError) as caught:
        getattr(asked, method)(*args, **kwargs)
    assert "sized(x: " in str(caught.value)
    assert lacking in str(caught.value)


def test_a_wrapped_model_has_the_call_of_its_wrapper() -> None:
    """A wrapper gives what the model below still lacks: no signature is asked before the call has failed."""

    @wraps(sized)
    def three(x: Tensor) -> None:
        sized(x, 3)

    assert EM(three, max_steps=2).fit(tensor(X)).params["loc"].shape == (3,)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, r'^Parameter "weights": expected .* at least one entry in every row, got shape \(0,\)'),
        (-1, r'^Argument "count": expected what the model runs with, got -1,'),
        ("2", r"""^Argument "count": expected what the model runs with, got '2',"""),
    ],
)
def test_numbers_of_components_that_are_none(count: Any, said: str) -> None:
    """None at all, fewer, and a word: the parameter is named, or the argument."""
    refuse("data", said, sized, tensor(X), count)


def test_a_sparse_table_is_to_be_made_dense() -> None:
    """The site is named."""
    refuse("data", r'^Site "x": expected a dense tensor, got torch.sparse_coo', points, tensor(X).to_sparse())


def test_an_error_of_the_model_that_no_argument_explains_is_its_own() -> None:
    """A slip in the model is no bad data."""

    def model(x: Tensor, settings: Any) -> None:
        points(x.nothing_of_this_name + settings)

    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        EM(model).fit(tensor(X), None)


# ---- supports that torch states closed -------------------------------------------------------------------------------

EDGES: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
    "Gamma": (lambda m: dist.Gamma(m, 1.0), tensor([0.5, 0.0, 2.0]), r"\(1,\)"),
    "Chi2": (lambda m: dist.Chi2(m), tensor([0.5, 2.0, 0.0]), r"\(2,\)"),
    "Beta at 0": (lambda m: dist.Beta(m, 2.0), tensor([0.5, 0.0]), r"\(1,\)"),
    "Beta at 1": (lambda m: dist.Beta(2.0, m), tensor([1.0, 0.5]), r"\(0,\)"),
    "Dirichlet": (
        lambda m: dist.Dirichlet(torch.stack([m, m], -1)), tensor([[0.5, 0.5], [0.0, 1.0]]), r"\(1, 0\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_a_value_at_the_edge_of_the_support(name: str) -> None:
    """The density is zero or infinite there; a mask leaves the row out."""
    law, x, index = EDGES[name]
    refuse("data", rf'^Site "x": expected values off .*got (0|1)\.0 at index {index}', points, x, law)
    here = ((x > 0) & (x < 1)).reshape(len(x), -1).all(-1) if "Gamma" not in name and name != "Chi2" else x > 0
    assert EM(points, max_steps=2).fit(x.clamp(1e-3, None), lambda m: law(m).mask(here)).num_steps == 2


def test_a_mixture_by_an_enumerated_mask() -> None:
    """The support of a MaskedMixture depends on a latent: one state that allows a value is enough."""

    def model(x: Tensor, high: float) -> None:
        share = pyro.param("share", tensor(0.3), constraint=constraints.unit_interval)
        rate = pyro.param("rate", tensor(1.0), constraint=constraints.positive)
        n = len(x)
        with pyro.plate("rows", n):
            z = pyro.sample("z", dist.Bernoulli(share)).bool()
            laws = dist.HalfNormal(rate).expand([n]), dist.Uniform(-high, high).expand([n])
            pyro.sample("x", dist.MaskedMixture(z, *laws), obs=x)

    x = tensor([0.2, 0.7, -1.5, 2.0, 0.1])
    assert EM(model).fit(x, 3.0).converged
    pyro.clear_param_store()
    refuse("data", r'^Site "x": .* at index \(2,\)', model, x, 1.0)
