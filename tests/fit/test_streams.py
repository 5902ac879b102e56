"""Fits of rows that come in batches: as in memory, in the memory of one batch, from whatever can be read again."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.batches import X, batches, both
from programs.loops import mixture, symmetric
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, EMError, ObjectiveError, ParameterError
from em_pyro.reading import recognise
from em_pyro.reading.reading import Reading

# ---- as in memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"acceleration": None}, {"acceleration": None, "starts": 7, "seed": 2}, {"acceleration": "quasi-newton"}],
    ids=["plain", "starts", "accelerated"],
)
def test_a_fit_is_that_in_memory(options: dict[str, Any]) -> None:
    """Starts, iterates, stopping, measured log-likelihood, certificate and ending."""
    whole, streamed = both(**options)
    exact = options["acceleration"] is None
    assert farthest(streamed.params, whole.params) < (IDENTITY if exact else 1e-5)
    assert distance(streamed.log_likelihood, whole.log_likelihood) < IDENTITY
    assert streamed.outcome == whole.outcome == "converged"
    assert streamed.notes == whole.notes
    if exact:
        assert streamed.num_steps == whole.num_steps
        assert max(abs(a - b) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY * abs(whole.objective)
        pairs = zip(streamed.starts, whole.starts, strict=True)
        assert max(abs(a.objective - b.objective) for a, b in pairs) < IDENTITY * abs(whole.objective)


def test_far_from_zero_no_digit_is_lost() -> None:
    """Batches whose own means are far apart, at an offset of a million: one centre is agreed on."""
    whole, streamed = both(x=X + 1e6, acceleration=None, starts={"loc": tensor([1e6 - 1, 1e6 + 3])}, tol=0, max_steps=9)
    assert max(abs(a - b) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY * abs(whole.objective)
    off = {name: streamed.params[name] - whole.params[name] for name in whole.params}
    assert max(float(part.abs().max()) for part in off.values()) < 1e-9


def test_a_saddle_is_left_as_in_memory() -> None:
    """The disturbance is measured by all rows, not by those of a batch."""
    whole, streamed = both(symmetric, x=torch.where(X > X.median(), X + 3, X), acceleration=None)
    assert streamed.outcome == whole.outcome == "converged"
    assert streamed.num_steps == whole.num_steps > 1
    assert streamed.params["loc"].diff().abs().max() > 1
    assert farthest(streamed.params, whole.params) < IDENTITY


def test_a_collapse_is_seen_by_the_spread_of_all_rows() -> None:
    """A scale that shrinks onto one row of the middle batch ends both."""
    start = {"loc": torch.stack([X[0], X[40]]), "scale": tensor([2.0, 1e-3])}
    whole, streamed = both(acceleration=None, starts=start)
    assert streamed.outcome == whole.outcome == "degenerate"
    assert streamed.notes == whole.notes


def test_states_hidden_in_a_site_and_latents_without_data_are_drawn() -> None:
    """Starts of sequences, in batches, end where they end in memory."""
    y = (torch.arange(24).remainder(5) > 2).double().repeat(6, 1)
    y[3:] = 1 - y[3:]

    def chain(y: Tensor) -> None:
        first = pyro.param("first", tensor([0.6, 0.4]), constraint=constraints.simplex)
        moves = pyro.param("moves", tensor([[0.7, 0.3], [0.4, 0.6]]), constraint=constraints.simplex)
        heads = pyro.param("heads", tensor([0.3, 0.6]), constraint=constraints.unit_interval)
        with pyro.plate("sequences", len(y)):
            law = dist.DiscreteHMM(first.log(), moves.log(), dist.Bernoulli(heads), duration=y.shape[1])
            pyro.sample("y", law, obs=y)

    options: dict[str, Any] = {"starts": 3, "acceleration": None, "tol": 0, "max_steps": 4}
    whole = EM(chain, collapse=False, **options).fit(y)
    pyro.clear_param_store()
    streamed = EM(chain, **options).fit_stream([y[:1], y[1:4], y[4:]])
    pairs = zip(streamed.starts, whole.starts, strict=True)
    assert max(abs(a.objective - b.objective) for a, b in pairs) < IDENTITY * abs(whole.objective)


def test_the_plate_of_the_rows_need_not_be_the_largest() -> None:
    """Five rows of seven items in a batch: the plate that differs between batches is the one that is split."""
    codes = torch.randint(0, 2, (7, 12), generator=torch.Generator().manual_seed(0)).double()

    def classes(codes: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
        heads = pyro.param("heads", torch.linspace(0.2, 0.8, 14).reshape(2, 7), constraint=constraints.unit_interval)
        with pyro.plate("people", codes.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(weights))
            with pyro.plate("items", 7, dim=-2):
                law = dist.Bernoulli(heads[z, torch.arange(7).unsqueeze(-1)])
                pyro.sample("codes", law, obs=codes)

    options: dict[str, Any] = {"acceleration": None, "tol": 0, "max_steps": 3}
    whole = EM(classes, collapse=False, **options).fit(codes)
    pyro.clear_param_store()
    streamed = EM(classes, **options).fit_stream([codes[:, :5], codes[:, 5:7], codes[:, 7:]])
    assert farthest(streamed.params, whole.params) < IDENTITY


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_two_batches_are_alive_at_most() -> None:
    """The one at work, and the one that was just read; the first is kept by the plan. No cycle holds any of them."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    def read() -> Iterator[Any]:
        nonlocal most
        for start in range(0, 90, 10):
            batch = X[start : start + 10].numpy().copy()
            alive.append(weakref.ref(batch))  # of the memory: a tensor that is a view of it keeps it
            most = max(most, sum(ref() is not None for ref in alive))
            yield batch

    gc.disable()
    try:
        EM(mixture, tol=0, max_steps=2, acceleration=None).fit_stream(read)
    finally:
        gc.enable()
    assert most <= 3


def test_a_batch_is_bound_again_without_a_look_for_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of the model a batch; nothing is probed after the plan is made."""
    runs = recognised = 0
    look = recognise.recognise

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal recognised
        recognised += 1
        return look(*args, **kwargs)

    def model(x: Tensor) -> None:
        nonlocal runs
        runs += 1
        mixture(x)

    monkeypatch.setattr("em_pyro.e_step.make.recognise", counted)
    counts = []
    for passes in (3, 7):
        pyro.clear_param_store()
        runs = recognised = 0
        EM(model, tol=0, acceleration=None, check=False, starts={"loc": tensor([0.0, 4.0])}).fit_stream(
            batches(), passes
        )
        counts.append(runs)
    assert recognised == 0
    assert counts[1] - counts[0] == 4 * len(batches())


def test_passes_cap_and_win() -> None:
    """Over max_steps, and are checked."""
    fit = EM(mixture, tol=0, max_steps=50, acceleration=None).fit_stream(batches(), passes=3)
    assert fit.num_steps == 3
    assert fit.outcome == "step limit"
    for wrong in (-1, 2.5, True):
        with pytest.raises(ParameterError, match="passes"):
            EM(mixture).fit_stream(batches(), passes=wrong)  # type: ignore[arg-type]


def test_progress_is_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is told of every batch, and of every point with its objective."""
    told, reached = list[int](), list[tuple[int, float]]()

    class Bar:
        def update(self, by: int) -> None:
            told.append(by)

        def reached(self, step: int, objective: float) -> None:
            reached.append((step, objective))

        def close(self) -> None:
            told.append(0)

    monkeypatch.setattr("em_pyro.after.driver.Bar", lambda *_: Bar())
    fit = EM(mixture, tol=0, max_steps=2, acceleration=None, progress=True).fit_stream(batches())
    assert reached == list(enumerate(fit.path))
    assert told[-1] == 0
    assert len(told) - 1 >= 3 * len(batches())
    assert (len(told) - 1) % len(batches()) == 0


# ---- afterwards ------------------------------------------------------------------------------------------------------


def test_the_answer_is_asked_of_batches_one_by_one() -> None:
    """No posterior of all rows; that of any; and the EM goes on from the fitted values, in memory too."""
    em = EM(mixture)
    fit = em.fit_stream(batches())
    with pytest.raises(DataError, match="posterior_on"):
        fit.posterior  # noqa: B018
    assert fit.posterior_on(X[:40]).marginal("z").shape == (40, 2)
    assert farthest(dict(em.params), fit.params) < IDENTITY
    assert distance(-em.step(X), fit.objective) < IDENTITY
    assert em.last is fit


def test_a_wrong_centre_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are laid out around another centre than they say: the objective falls, or ends elsewhere."""
    right = Reading.on

    def wrong(reading: Reading, site: Any) -> Reading:
        found = right(reading, site)
        if reading.family.location is None:
            return found
        return replace(found, site=replace(site, value=site.value + 1e-3 * len(site.value)))

    whole, _ = both(acceleration=None, tol=0, max_steps=3)
    monkeypatch.setattr(Reading, "on", wrong)
    pyro.clear_param_store()
    try:
        streamed = EM(mixture, acceleration=None, tol=0, max_steps=3).fit_stream(batches())
    except (ObjectiveError, EMError):
        return
    assert farthest(streamed.params, whole.params) > 1e-3
