"""What a probe has lost of the arguments at the start, told of many small arguments at once as of each by itself."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import Bernoulli, Distribution, MultivariateNormal, Normal, Poisson

from em_pyro.program.changes import lost
from em_pyro.program.changes.lost import First
from em_pyro.program.named import unexpand
from em_pyro.program.site import Site

Change = Mapping[str, Distribution]


def run(**changed: Distribution) -> dict[str, Site]:
    """Twenty sites of one law, and three of others, some of which are changed."""
    laws: dict[str, Distribution] = {}
    for k in range(20):
        laws[f"x{k}"] = Poisson(tensor([1.0, 2.0]) + k)
    laws["expanded"] = expanded([0.0, 1.0])
    laws["impossible"] = Bernoulli(tensor([0.0, 0.5]))
    laws["factor"] = correlated(1.0)
    return {name: _site(name, fn) for name, fn in (laws | changed).items()}


def expanded(loc: list[float]) -> Distribution:
    """A law of two states, in fifty rows that share it."""
    return Normal(tensor(loc).unsqueeze(-1), tensor([[1.0], [2.0]]), validate_args=False).expand([2, 50])


def correlated(last: float) -> Distribution:
    """A law with a Cholesky factor: one of its entries is zero, always."""
    return MultivariateNormal(torch.ones(2), scale_tril=tensor([[2.0, 0.0], [0.5, last]]), validate_args=False)


def _site(name: str, fn: Distribution) -> Site:
    return Site(name, "observed", fn, torch.zeros(()), (), {}, 1.0, None)


CHANGES: Mapping[str, tuple[Callable[[], Change], bool]] = {
    "other numbers": (lambda: {"x3": Poisson(tensor([5.0, 9.0]))}, False),
    "a rate of zero": (lambda: {"x19": Poisson(tensor([0.0, 9.0]))}, True),
    "no number": (lambda: {"x7": Poisson(tensor([torch.nan, 9.0]), validate_args=False)}, True),
    "an infinite location": (lambda: {"expanded": expanded([torch.inf, 1.0])}, True),
    "a location of zero": (lambda: {"expanded": expanded([0.0, 0.0])}, False),
    "zero where it was": (lambda: {"impossible": Bernoulli(tensor([0.0, 0.9]))}, False),
    "zero elsewhere too": (lambda: {"impossible": Bernoulli(tensor([0.0, 0.0]))}, True),
    "another factor": (lambda: {"factor": correlated(3.0)}, False),
    "a factor with a zero more": (lambda: {"factor": correlated(0.0)}, True),
    "fewer entries": (lambda: {"x5": Poisson(tensor(6.0))}, True),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("together", [True, False])
def test_lost(name: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """An entry that is no number or zero now, and was not, is lost; whichever way one looks."""
    if not together:
        monkeypatch.setattr(lost, "TOGETHER", 0)
    change, expected = CHANGES[name]
    assert First(run()).lost(run(**change())) is expected


@pytest.mark.parametrize("name", CHANGES)
def test_lost_of_several_runs(name: str) -> None:
    """Where any of some runs has lost an entry, it is said of all together; and not without need."""
    change, expected = CHANGES[name]
    first, changed = run(), run(**change())
    moved = dict[lost.Key, Tensor]()
    for site in change():
        for (place, was), (_, now) in zip(
            *(lost.arguments_of(sites[site].fn) for sites in (first, changed)), strict=True
        ):
            pair = [unexpand(part) for part in ((was, now) if was.shape == now.shape else (now, now))]
            moved[site, place] = torch.stack(pair).expand(2, *now.shape)
    assert First(first).lost_of(moved) is expected


def test_zeros_that_were_there_are_seen_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cholesky factor has zeros, of which nobody is asked one by one."""
    monkeypatch.setattr(First, "_count", lambda first, key: pytest.fail(f"{key} was counted"))
    assert not First(run()).lost(run(factor=correlated(3.0)))


def test_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes any argument for whole misses what is lost."""

    def whole(first: First, moved: Mapping[lost.Key, list[Tensor]]) -> bool:
        return True

    monkeypatch.setattr(First, "_whole", whole)
    missed = [name for name, (change, _) in CHANGES.items() if not First(run()).lost(run(**change()))]
    assert missed == list(CHANGES)
