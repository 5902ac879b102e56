"""Fits of rows that lie with several real processes, which are started here: as in one, or a named error on all."""

from typing import Any

import pyro
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs import columns, links, share
from programs.share import FITS, OPTIONS, Ran

from em_pyro import EM, ParameterError
from em_pyro.fit.assigned import climb
from em_pyro.fit.rows import processes

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")


@pytest.mark.parametrize(("size", "name"), [(size, name) for size in FITS for name in FITS[size]])
def test_a_fit_of_several_processes_is_that_of_one(name: str, size: int, ran: Ran) -> None:
    """Starts, iterates, log-likelihood, certificate and ending; the same bits everywhere."""
    every = [one[name] for one in ran("fits", size)]
    assert all(one == every[0] for one in every)
    found = every[0]
    pyro.clear_param_store()
    first = share.data()[: 30 if size == 2 else 50]  # what the first process with rows lets its initialisers see
    start = {} if "starts" in OPTIONS[name] else {"starts": {"loc": first.mean() + torch.tensor([-1.0, 1.0])}}
    if not start:
        pyro.param("loc", first.mean() + torch.tensor([-1.0, 1.0]))
    whole = EM(share.mixture, collapse=False, **start, **OPTIONS[name]).fit(share.data())
    exact = name != "accelerated"
    for key, value in whole.params.items():
        assert distance(torch.tensor(found["params"][key]), value) < (IDENTITY if exact else 1e-5)
    assert distance(found["log_likelihood"], whole.log_likelihood) < IDENTITY
    assert found["outcome"] == whole.outcome == "converged"
    if exact:
        assert max(abs(a - b) for a, b in zip(found["path"], whole.path, strict=True)) < IDENTITY * abs(whole.objective)
        pairs = zip(found["starts"], whole.starts, strict=True)
        assert max(abs(a - b.objective) for a, b in pairs) < IDENTITY * abs(whole.objective)


def test_rows_without_weight_count_nothing(ran: Ran) -> None:
    """All those of one process: the fit is that of the others' rows."""
    every = [one["idle"] for one in ran("fits", 3)]
    assert all(one == every[0] for one in every)
    pyro.clear_param_store()
    x = share.data()[:50]
    whole = EM(share.weighed, acceleration=None, collapse=False).fit(x, torch.ones_like(x))
    assert max(abs(a - b) for a, b in zip(every[0]["path"], whole.path, strict=True)) < IDENTITY * abs(whole.objective)


@pytest.mark.parametrize("size", [2, 3], ids=["two", "three-one-empty"])
def test_batches_in_every_process_are_one_fit(size: int, ran: Ran) -> None:
    """Streams and processes compose: iterates, ending and log-likelihood are those of all rows in memory."""
    every = [one["stream"] for one in ran("streams", size)]
    assert all(one == every[0] for one in every)
    first = share.data()[: 12 if size == 2 else 50].mean() + torch.tensor([-1.0, 1.0])  # of the first batch
    pyro.clear_param_store()
    whole = EM(share.mixture, collapse=False, acceleration=None, starts={"loc": first}).fit(share.data())
    assert every[0]["outcome"] == whole.outcome == "converged"
    assert max(abs(a - b) for a, b in zip(every[0]["path"], whole.path, strict=True)) < IDENTITY * abs(whole.objective)
    for key, value in whole.params.items():
        assert distance(torch.tensor(every[0]["params"][key]), value) < IDENTITY


@pytest.mark.parametrize(("size", "name"), [(2, "slope"), (2, "exposed_shares"), (3, "dummies"), (3, "exposed_groups")])
def test_shares_may_show_fewer_covariates_than_there_are(name: str, size: int, ran: Ran) -> None:
    """A covariate that is the same in all rows of one, groups that have rows in the other alone."""
    every = [one[name] for one in ran("streams", size)]
    assert all(one == every[0] for one in every)
    pyro.clear_param_store()
    options: dict[str, Any] = {"acceleration": None, "tol": 0, "max_steps": 4}
    whole = EM(getattr(columns, name), collapse=False, **options).fit(columns.sorted_rows())
    assert max(abs(a - b) for a, b in zip(every[0]["path"], whole.path, strict=True)) < IDENTITY * abs(whole.objective)
    for key, value in whole.params.items():
        assert distance(torch.tensor(every[0]["params"][key]), value) < IDENTITY


@pytest.mark.parametrize(("size", "name"), [(2, "gamma"), (3, "poissons"), (3, "shares")])
def test_slopes_and_curvatures_are_added_up(name: str, size: int, ran: Ran) -> None:
    """Regressions with a link, in batches and in shares: the maximum of all rows, the same bits everywhere."""
    every = [one[name] for one in ran("streams", size)]
    assert all(one == every[0] for one in every)
    pyro.clear_param_store()
    whole = EM(links.PROGRAMS["poissons" if name == "shares" else name], tol=1e-12, collapse=False).fit(*links.rows())
    assert every[0]["outcome"] == whole.outcome == "converged"
    assert distance(every[0]["log_likelihood"], whole.log_likelihood) < 1e-8


def test_what_one_process_reads_ends_all(ran: Ran) -> None:
    """A batch that changes between passes, in the last of them; and batches of none."""
    first, last = ran("streams", 2)
    assert last["changed"]["error"] == "DataError"
    assert first["changed"]["text"].startswith("Process 1: Batch 2: expected the same rows in every pass")
    assert all("at least one row in some process" in one["none"]["text"] for one in (first, last))


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("refused", "PlanError", 'Site "x": expected statistics that add up'),
        ("centred", "PlanError", 'the same arguments in all processes, got another "x.scale"'),
        ("options", "PlanError", 'the same options in all processes, got another "seed"'),
    ],
)
def test_what_cannot_be_reduced_is_refused_by_all(what: str, error: str, text: str, ran: Ran) -> None:
    """At planning, and no process waits for another."""
    for one in ran("fits", 2):
        assert one[what]["error"] == error
        assert text in one[what]["text"]


def test_bad_data_of_one_end_all(ran: Ran) -> None:
    """The process that has them says where, the others which process."""
    first, second = (one["data"] for one in ran("fits", 2))
    assert second["error"] == "DataError"
    assert first["text"].startswith('Process 1: Site "x": expected finite data')


@pytest.mark.parametrize("size", [2, 3], ids=["two", "three-one-empty"])
def test_single_steps_are_those_of_one(size: int, ran: Ran) -> None:
    """Losses and values; planned once, and anew in all where one of them has other rows."""
    every = ran("steps", size)
    assert all(one == every[0] for one in every)
    assert every[0]["plans"] == 1
    alone, x = EM(share.mixture, collapse=False, starts={"loc": torch.tensor([0.0, 4.0])}), share.data()
    other = torch.cat([x[: 30 if size == 2 else 50], x[30 if size == 2 else 50 :] + 1.0])
    losses = [alone.step(x) for _ in range(4)] + [alone.step(other) for _ in range(2)]
    assert max(abs(a - b) for a, b in zip(every[0]["losses"], losses, strict=True)) < IDENTITY * abs(losses[0])
    assert distance(torch.tensor(every[0]["loc"]), alone.params["loc"]) < IDENTITY


@pytest.mark.parametrize("size", [2, 3], ids=["two", "three-one-empty"])
def test_rows_in_one_state_each_add_up(size: int, ran: Ran) -> None:
    """Hard: the path of one process, in shares and in their batches. Sampled: the same everywhere, around a maximum."""
    every = ran("assigned", size)
    assert all(one == every[0] for one in every)
    start: dict[str, Any] = {"starts": {"loc": torch.tensor([0.0, 4.0])}}
    whole = EM(share.mixture, e_step="hard", **start).fit(share.data())
    for how in ("hard", "stream"):
        found = every[0][how]
        assert found["outcome"] == whole.outcome == "settled"
        assert max(abs(a - b) for a, b in zip(found["path"], whole.path, strict=True)) < IDENTITY * abs(whole.objective)
        assert distance(found["log_likelihood"], whole.log_likelihood) < IDENTITY
    pyro.clear_param_store()
    soft = EM(share.mixture, **start).fit(share.data())
    assert every[0]["sampled"]["outcome"] == "averaged"
    assert soft.objective - 1 < every[0]["sampled"]["path"][-1] < soft.objective
    assert 'Site "y": expected statistics that add up over rows' in every[0]["links"]


def test_the_example_asserts_what_it_claims(ran: Ran) -> None:
    """The first of two processes says that both have the fit of one; there is no picture."""
    first, second = ran("example")
    assert "2 processes, 2000 rows in the first" in first
    assert second == ""


def test_every_process_draws_states_of_its_own() -> None:
    """Else equal rows of two processes would always be in the same state; those of a lone one are what they were."""
    first, second = (climb.generator(3, 1, holder).initial_seed() for holder in (0, 1))
    assert first == 3 * 1_000_003 + 1 != second


def test_without_a_group_it_is_named() -> None:
    """Nothing was initialised here."""
    with pytest.raises(ParameterError, match="has not been initialised"):
        EM(share.mixture, process_group=object()).fit(share.data())
    for options in ({"batches": 2},):
        with pytest.raises(ParameterError, match="process_group"):
            EM(share.mixture, process_group=object(), **options)
    with pytest.raises(ParameterError, match="process_group"):
        EM(share.mixture, process_group=object()).fit_stream([share.data()])


def test_sums_around_other_places_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that hold the same, of whom one has moved its statistics elsewhere."""
    problem = processes.replace(EM(share.mixture, collapse=False)._prepare((share.data(),), {}))
    bound = problem.bind({name: value.unsqueeze(0) for name, value in problem.engine.recognition.values.items()})
    found = problem.expect(bound)

    class Two(processes.Team):
        """Two of which one is somewhere else by its rank."""

        def summed(self, vector: torch.Tensor) -> torch.Tensor:
            """Add what the other has."""
            other = vector.clone()
            other[-1] += self.rank
            return vector + other

    total = processes._reduced(Two(None, 0, 2), found, 1.0)
    assert distance(total.log_evidence, 2 * found.log_evidence) < IDENTITY
    with pytest.raises(processes.PlanError, match="around the same locations"):
        processes._reduced(Two(None, 1, 2), found, 1.0)
