"""A process that is lost: a named error on the others, what they keep, and fits that go on from there."""

from typing import Any

import pyro
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs import share
from programs.share import Ran

from em_pyro import EM

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")


@pytest.mark.parametrize("scenario", ["dies", "hangs"])
def test_a_process_that_is_lost_is_named(scenario: str, ran: Ran) -> None:
    """On the others, within the group's timeout; `last` has the last values and the way to them."""
    first, second = ran(scenario, 2)
    assert second is None
    assert first["error"] == "ProcessError"
    assert "Process 0 of 2" in first["text"]
    assert first["seconds"] < 20
    assert first["outcome"] == "interrupted"
    assert first["steps"] >= 2
    assert first["path"] == sorted(first["path"])
    pyro.clear_param_store()
    start = {"loc": share.data()[:30].mean() + torch.tensor([-1.0, 1.0])}
    options: dict[str, Any] = {"tol": 0, "acceleration": None, "max_steps": first["steps"], "starts": start}
    fit = EM(share.mixture, collapse=False, **options).fit(share.data())
    assert distance(torch.tensor(first["loc"]), fit.params["loc"]) < IDENTITY


def test_a_fit_goes_on_from_the_last_values(ran: Ran) -> None:
    """Saved on a process that was left, given to all: from where it was, to the maximum of a fit that lost nobody."""
    lost, whole = ran("dies")[0], ran("fits")[0]["plain"]
    assert lost["path"] == whole["path"][: len(lost["path"])]
    every = ran("again")
    assert all(one == every[0] for one in every)
    rest = every[0]["path"]
    assert abs(rest[0] - lost["path"][-1]) < IDENTITY * abs(rest[0])
    assert rest[0] < whole["path"][-1] - 0.1
    assert every[0]["outcome"] == "converged"
    assert abs(rest[-1] - whole["path"][-1]) < 1e-6


@pytest.mark.parametrize("who", ["first", "last"])
def test_a_checkpoint_is_gone_on_from(who: str, ran: Ran) -> None:
    """Whoever was killed, by SIGKILL: bit for bit the path of a fit that lost nobody; other shares are refused."""
    killed, whole = ran(f"{who}-killed"), ran("fits")[0]["plain"]
    assert killed[0 if who == "first" else 1] is None
    assert killed[1 if who == "first" else 0]["error"] == "ProcessError"
    for one in ran("other-shares", again=who):
        assert one["error"] == "DataError"
        assert "of process 0 was" in one["text"]
    for one in ran("resumed", again=who):
        assert one["path"] == whole["path"]
        assert one["params"] == whole["params"]
        assert any("went on after" in note for note in one["notes"])
