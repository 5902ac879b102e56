"""Batches that cannot be read, bound or added up are refused by name; whatever can be read again is read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.batches import X, batches, both
from programs.links import batches as linked
from programs.links import poissons
from programs.loops import mixture
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

from em_pyro import EM, DataError, ParameterError, PlanError
from em_pyro.fit.rows.seals import sealed, source_of


def test_whatever_can_be_read_again(tmp_path: Any) -> None:
    """Lists, functions, loaders, memory maps, keywords: the same fit."""
    x = X.numpy()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = EM(mixture, tol=0, max_steps=3, acceleration=None).fit(X)
    for source in (
        [(part,) for part in batches()],
        [[part] for part in batches()],
        [((), {"x": part, "K": 2}) for part in batches()],
        lambda: ((part, 2) for part in batches()),
        DataLoader(TensorDataset(X), batch_size=25),
        lambda: (mapped[at : at + 25] for at in range(0, 90, 25)),
    ):
        pyro.clear_param_store()
        fit = EM(mixture, tol=0, max_steps=3, acceleration=None).fit_stream(source)
        assert farthest(fit.params, whole.params) < IDENTITY


def test_parquet_files(tmp_path: Any) -> None:
    """The batches of an Arrow data set."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = pytest.importorskip("pyarrow.dataset")
    parquet.write_table(arrow.table({"x": X.numpy()}), tmp_path / "x.parquet")
    files = data.dataset(tmp_path)
    fit = EM(mixture, tol=0, max_steps=3, acceleration=None).fit_stream(
        lambda: (torch.from_numpy(part["x"].to_numpy().copy()) for part in files.to_batches(batch_size=25))
    )
    pyro.clear_param_store()
    assert farthest(fit.params, EM(mixture, tol=0, max_steps=3, acceleration=None).fit(X).params) < IDENTITY


def test_what_cannot_be_read_again_is_named() -> None:
    """One pass is not enough, and a tensor is no list of batches."""
    for wrong in (
        iter(batches()),
        (part for part in batches()),
        X,
        X.numpy(),
        {"x": X},
        5,
        "x",
        lambda many: batches(),
    ):
        with pytest.raises(ParameterError, match="fit_stream: expected"):
            source_of(wrong)
    for returned in (None, X, X.numpy(), {"x": X}):
        with pytest.raises(ParameterError, match=f"got one that returns {type(returned).__name__}"):
            EM(mixture).fit_stream(lambda found=returned: found)


def test_an_error_of_the_reader_is_its_own() -> None:
    """In the middle of a pass: it comes out as it is, and the store is as it was."""
    passes = 0

    def read() -> Iterator[Tensor]:
        nonlocal passes
        passes += 1
        yield X[:40]
        if passes > 4:
            raise OSError("the disk is gone")
        yield X[40:]

    pyro.param("loc", tensor([0.0, 4.0]))
    with pytest.raises(OSError, match="the disk is gone"):
        EM(mixture).fit_stream(read)
    assert passes == 5
    assert torch.equal(pyro.param("loc"), tensor([0.0, 4.0]))
    assert "scale" not in pyro.get_param_store()


def test_an_argument_of_another_shape_is_named() -> None:
    """Covariates of another number, with which the model would run all the same."""
    with pytest.raises(DataError, match=r"Batch 1: expected argument 0 of shape \(50, 2\) but for the rows"):
        EM(poissons, check=False).fit_stream([linked()[0], (linked()[1][0][:, :1], linked()[1][1])])


class Changing:
    """Hands out other batches from its fourth pass on."""

    def __init__(self, later: list[Tensor]) -> None:
        """Take what is handed out then."""
        self.later, self.passes = later, 0

    def __iter__(self) -> Iterator[Tensor]:
        """Begin another pass."""
        self.passes += 1
        yield from batches() if self.passes < 5 else self.later


OTHER = batches()
OTHER[2] = OTHER[2].clone()
OTHER[2][7] += 1e-14


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ([], "at least one batch"),
        ([X[:40], X[:0]], "Batch 1: .*at least one row"),
        ([X[:40], X[40:].unsqueeze(-1).expand(-1, 2)], "Batch 1: "),
        ([X[:40], X[40:] * float("nan")], "Batch 1: .*finite"),
        ([X[:40], "rows"], "Batch 1: "),
        (Changing(OTHER), "Batch 2: expected the same rows"),
        (Changing(batches()[:2]), "expected 3 batches in every pass, as in the first one, got 2"),
        (Changing([*batches(), X]), "expected 3 batches in every pass, as in the first one, got more"),
        (Changing([X[:40], X[41:], X[40:41]]), "Batch 1: expected the same rows"),
    ],
    ids=["none", "empty", "shape", "nan", "kind", "bit", "fewer", "more", "order"],
)
def test_batches_that_cannot_be_used_are_named(wrong: Any, match: str) -> None:
    """And nothing is left in the store of the values that were on their way."""
    pyro.clear_param_store()
    with pytest.raises(DataError, match=match):
        EM(mixture, acceleration=None, check=False).fit_stream(wrong)


def test_a_seal_tells_bits_places_and_shapes() -> None:
    """Of large arrays, whose checksum is by lanes."""
    x = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    other, moved = x.clone(), x.clone()
    other[777, 1] = torch.nextafter(other[777, 1], tensor(9.0))
    moved[[5, 20_000]] = moved[[20_000, 5]]
    seals = [sealed(((part,), {}))[1] for part in (x, other, moved, x.reshape(3, -1), x.flip(0), x[:-1], x.float())]
    assert len(set(seals)) == len(seals)
    assert sealed(((x.clone(),), {}))[1] == seals[0] != sealed(((), {"x": x}))[1]


@pytest.mark.parametrize(
    "given",
    [
        np.arange(120_003.0).reshape(-1, 3),
        np.arange(600.0).reshape(-1, 3)[:, ::-1],
        np.asfortranarray(np.arange(60.0).reshape(-1, 3)),
        np.array(2.5),
        np.zeros((0, 3)),
        np.array(["a", None]),
    ],
    ids=["long", "reversed", "by column", "number", "empty", "objects"],
)
def test_what_must_not_be_written_to_is_copied_and_sealed_as_it_was(given: np.ndarray) -> None:
    """Also arrays that are not in one piece."""
    (_, number), source = sealed(((given,), {})), given.view()
    source.flags.writeable = False
    ((copy,), _), again = sealed(((source,), {}))
    assert again == number
    assert copy.flags.writeable
    assert not np.shares_memory(copy, given)
    assert copy.dtype == given.dtype
    np.testing.assert_array_equal(copy, given)


def weighed(x: Tensor, w: Tensor) -> None:
    """Rows with weights."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    with pyro.poutine.scale(scale=w), pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_weights_are_looked_at_in_every_batch() -> None:
    """The first may have none, if another has; a wrong one is named with its batch."""
    options: dict[str, Any] = {"acceleration": None, "tol": 0, "max_steps": 3}
    first, later = torch.zeros(40), torch.ones(50)
    fit = EM(weighed, **options).fit_stream([(X[:40], first), (X[40:], later)])
    pyro.clear_param_store()
    whole = EM(weighed, collapse=False, **options).fit(X, torch.cat([first, later]))
    assert farthest(fit.params, whole.params) < IDENTITY
    with pytest.raises(DataError, match="expected a row that counts"):
        EM(weighed).fit_stream([(X[:40], first), (X[40:], 0 * later)])
    for wrong in (-1.0, float("nan")):
        bad = torch.where(torch.arange(50) == 7, wrong, later)
        with pytest.raises(DataError, match=f"Batch 1: .*not negative, got {wrong} at index"):
            EM(weighed).fit_stream([(X[:40], later[:40]), (X[40:], bad)])


# ---- what is refused -------------------------------------------------------------------------------------------------


def outside(x: Tensor) -> None:
    """Rows share a latent."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    side = pyro.sample("side", dist.Categorical(tensor([0.5, 0.5])))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc[side], 1.0), obs=x)


def by_row(x: Tensor) -> None:
    """Every row has a parameter."""
    loc = pyro.param("loc", lambda: x.clone() + 1)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def of_their_mean(x: Tensor) -> None:
    """Rows are standardised inside."""
    mixture((x - x.mean()) / x.std())


def known_by_their_mean(x: Tensor) -> None:
    """A scale is computed of the rows."""
    loc, scale = pyro.param("loc", tensor([0.0, 4.0])), x.abs().max()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def prior_by_their_mean(x: Tensor) -> None:
    """A prior is."""
    loc = pyro.sample("loc", dist.Normal(x.mean(), 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def without_plate(x: Tensor) -> None:
    """Nothing says what a row is."""
    loc = pyro.param("loc", tensor(0.0))
    pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (outside, 'Site "side": expected every site inside plate "row"'),
        (by_row, 'Site "x": expected statistics that add up'),
        (of_their_mean, 'Site "x": expected rows that are treated one by one'),
        (known_by_their_mean, 'Site "x": expected a scale that is the same'),
        (prior_by_their_mean, 'Site "loc": expected a prior that is the same'),
        (without_plate, "expected a plate whose rows come in batches"),
    ],
)
def test_programs_that_are_of_all_rows_are_refused(model: Any, match: str) -> None:
    """When they are planned, by the site."""
    with pytest.raises(PlanError, match=match):
        EM(model, check=False).fit_stream(batches())


def test_programs_without_latents_and_with_priors_are_fitted() -> None:
    """A prior counts once, however many batches there are."""

    def one(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 0.1))
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    whole, streamed = both(one, acceleration=None)
    assert farthest(streamed.params, whole.params) < IDENTITY
    assert distance(streamed.objective, whole.objective) < IDENTITY
    assert abs(whole.objective - whole.log_likelihood) > 0.1


def test_an_impossible_row_is_named_with_its_batch() -> None:
    """The batch, and the row in it."""

    def zeros(x: Tensor) -> None:
        p = pyro.param("p", tensor([[1.0, 0.0], [1.0, 0.0]]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Categorical(p[z]), obs=x)

    with pytest.raises(DataError, match="Batch 1: .*at index 2"):
        EM(zeros).fit_stream([torch.zeros(5).long(), tensor([0, 0, 1, 0])])
