"""Features that are mostly zero are looked up or kept by their entries: the same answers as by products with zeros."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.engines import same
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step import chunks
from em_pyro.e_step.contraction.mixture import Mixture
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.sites import forms
from em_pyro.e_step.sites.lookup import Entries, Sparse, Table

N, K, V, J = 700, 3, 40, 4


def rows(*shape: int) -> Tensor:
    """Starts of probabilities: rows of a simplex, none of them alike."""
    start = 1 + torch.arange(torch.Size(shape).numel()).reshape(shape).double().sin()
    return start.clamp(min=0.05)


def word(*shape: int) -> Tensor:
    """A parameter of so many rows of probabilities."""
    return pyro.param("word", rows(*shape), constraint=constraints.simplex)


def kinds() -> Tensor:
    """Mixing weights."""
    return pyro.param("weights", torch.tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)


def category(x: Tensor, mask: Tensor | None = None) -> None:
    """One of many categories a row, beside a number."""
    loc, probs = pyro.param("loc", torch.arange(3.0)), word(K, V)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(kinds()))
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=x.double() / V)
        with pyro.poutine.mask(mask=True if mask is None else mask):
            pyro.sample("x", dist.Categorical(probs[z]), obs=x)


def one_hot(x: Tensor) -> None:
    """The same as a row of zeros with a one."""
    probs = word(K, V)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(kinds()))
        pyro.sample("x", dist.OneHotCategorical(probs[z]), obs=torch.eye(V)[x])


def document(x: Tensor) -> None:
    """Counts of words."""
    probs = word(K, V)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(kinds()))
        pyro.sample("x", dist.Multinomial(probs=probs[z], validate_args=False), obs=x)


def answers(x: Tensor, mask: Tensor | None = None) -> None:
    """Items of many categories, as one event."""
    probs = word(K, J, V)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(kinds()))
        pyro.sample("x", dist.Categorical(probs[z]).to_event(1).mask(True if mask is None else mask), obs=x)


def items(x: Tensor, mask: Tensor | None = None) -> None:
    """Items of many categories, in a plate of their own, some of them missing."""
    probs = word(K, J, V)
    with pyro.plate("row", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(kinds()))
        with pyro.plate("item", J, dim=-1), pyro.poutine.mask(mask=True if mask is None else mask):
            pyro.sample("x", dist.Categorical(probs[z, torch.arange(J)]), obs=x)


def weighed(x: Tensor) -> None:
    """Items that count more or less."""
    probs = word(K, J, V)
    with pyro.plate("row", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(kinds()))
        with pyro.plate("item", J, dim=-1), pyro.poutine.scale(scale=torch.linspace(0.5, 2.0, J)):
            pyro.sample("x", dist.Categorical(probs[z, torch.arange(J)]), obs=x)


def topics(x: Tensor) -> None:
    """A row of shares for each of some documents, a word a row."""
    share = pyro.param("share", rows(5, K), constraint=constraints.simplex)
    probs = word(K, V)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(share[torch.arange(len(x)) % 5]))
        pyro.sample("x", dist.Categorical(probs[z]), obs=x)


def chain(x: Tensor) -> None:
    """A hidden Markov chain that emits counts of words."""
    move, probs = pyro.param("move", rows(K, K), constraint=constraints.simplex), word(K, V)
    with pyro.plate("row", len(x)):
        z: Any = 0
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(move[z]))
            pyro.sample(f"x_{t}", dist.Multinomial(probs=probs[z], validate_args=False), obs=x[:, t])


def draw(*shape: int) -> Tensor:
    """Categories."""
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(0))


def counts(*shape: int) -> Tensor:
    """Rows of three words each."""
    return torch.nn.functional.one_hot(draw(*shape, 3), V).sum(-2).double()


def gaps(*shape: int) -> Tensor:
    """Some rows that are not seen."""
    return draw(*shape) > V // 5


CASES: dict[str, tuple[Any, Any, type]] = {
    "category": (category, lambda: (draw(N),), Table),
    "category-with-gaps": (category, lambda: (draw(N), gaps(N)), Table),
    "one-hot": (one_hot, lambda: (draw(N),), Sparse),
    "document": (document, lambda: (counts(N),), Sparse),
    "answers": (answers, lambda: (draw(N, J),), Sparse),
    "answers-with-gaps": (answers, lambda: (draw(N, J), gaps(N)), Sparse),
    "items": (items, lambda: (draw(N, J),), Sparse),
    "items-with-gaps": (items, lambda: (draw(N, J), gaps(N, J)), Sparse),
    "items-weighed": (weighed, lambda: (draw(N, J),), Sparse),
    "topics": (topics, lambda: (draw(N),), Table),
    "chain": (chain, lambda: (counts(N // 10, 4),), Sparse),
}
"""Programs, their data, and the form in which the words are computed."""


@contextmanager
def products_only() -> Iterator[None]:
    """Leave the forms by index out."""
    kept = forms.FORMS
    forms.FORMS = (forms.indicator_of,)  # type: ignore[misc]
    try:
        yield
    finally:
        forms.FORMS = kept  # type: ignore[misc]


def engine_of(model: Any, args: tuple[Any, ...]) -> tuple[Engine, dict[str, Tensor]]:
    """The engine of all rows, and two starts at once."""
    pyro.clear_param_store()
    em = EM(model, collapse=False)
    em.plan(*args)
    assert em._prepared is not None
    values = {n: v.double() for n, v in em.params.items()}
    return em._prepared.engine, {n: torch.stack([v, v.flip(0)]) for n, v in values.items()}


def by_index(engine: Engine) -> set[type]:
    """Forms by index in which some site is computed."""
    used = {type(f.form) for unit in engine.units for f in unit.every}
    return used & {Table, Sparse}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", ["whole", "chunks"])
def test_as_by_products(case: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence and statistics of two starts are those of products with all zeros, in chunks as well."""
    model, args, form = CASES[case]
    if size == "chunks":
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    engine, batch = engine_of(model, args())
    assert by_index(engine) == {form}
    with products_only():
        other, _ = engine_of(model, args())
    assert not by_index(other)
    same(engine, other, batch)


def test_a_mixture_stays_one() -> None:
    """Sites by index join the products of a mixture; nothing falls back to the general contraction."""
    engine, _ = engine_of(category, (draw(N),))
    assert [type(part) for part in engine.parts] == [Mixture]


def test_few_categories_are_multiplied() -> None:
    """Where there is little to save, the product is kept."""
    engine, _ = engine_of(one_hot, (draw(N) % 3,))
    assert by_index(engine) == {Sparse}
    full = counts(N) + torch.arange(V)
    engine, _ = engine_of(document, (full,))
    assert not by_index(engine)


def test_a_wrong_place_is_noticed() -> None:
    """The comparison of these tests sees one entry of one row that stands elsewhere."""
    engine, batch = engine_of(document, (counts(N),))
    (unit,) = [unit for unit in engine.units if any(isinstance(f.form, Sparse) for f in unit.every)]
    (factor,) = unit.every
    with products_only():
        other, _ = engine_of(document, (counts(N),))
    same(engine, other, batch)
    assert isinstance(factor.form, Sparse)
    for chunk, found in factor.form.cache.items():
        row, place, value = found.entries
        place = place.clone()
        place[0] = (place[0] + 1) % V
        shape = (found.features.shape[0], found.features.shape[1])
        factor.form.cache[chunk] = Entries.of(row, place, value, shape)
    with pytest.raises(AssertionError):
        same(engine, other, batch)


def test_entries_beside_entries() -> None:
    """Rows of several sites side by side are the rows of each."""
    first = Entries.of(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1.0, 3.0]), (2, 3))
    second = Entries.of(torch.tensor([0]), torch.tensor([1]), torch.tensor([2.0]), (1, 3))
    both, numbers = Sparse().beside([first, second])
    close(both.features.to_dense(), torch.cat([first.features.to_dense(), second.features.to_dense()]))
    close(both.transposed.to_dense(), both.features.to_dense().mT)
    assert numbers == 9


def both(x: Tensor, y: Tensor, n: Tensor) -> None:
    """Two words of one topic, and a number beside them."""
    weights = pyro.param("weights", torch.full((2,), 0.5), constraint=constraints.simplex)
    first = pyro.param("first", rows(2, V), constraint=constraints.simplex)
    second = pyro.param("second", rows(2, V).flip(-1), constraint=constraints.simplex)
    rate = pyro.param("rate", torch.tensor([1.0, 4.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Categorical(first[z]), obs=x)
        pyro.sample("y", dist.Categorical(second[z]), obs=y)
        pyro.sample("n", dist.Poisson(rate[z]), obs=n)


@pytest.mark.parametrize("case", ["category", "category-with-gaps", "document", "both"])
def test_rows_of_a_mixture_answer_for_themselves(case: str) -> None:
    """Standard errors ask the unit of the rows for its densities, and for its sums: they are those of products."""
    model, args, _ = CASES.get(case, (both, lambda: (draw(N), draw(N).flip(0), draw(N) % 5), Table))
    engine, batch = engine_of(model, args())
    with products_only():
        other, _ = engine_of(model, args())
    answers = []
    for each in (engine, other):
        (mixture,) = each.parts
        assert isinstance(mixture, Mixture)
        unit, bound = mixture.rows, each.bind(batch)
        natural = unit.natural(bound)
        (found,), memo = unit.log_factors(natural)
        shares = found.softmax(-1)
        answers.append((found, unit.sums([shares], natural, memo)))
    (mine, sums), (theirs, others) = answers
    close(mine, theirs)
    assert sums.keys() == others.keys()
    for name, part in sums.items():
        close(part, others[name])
    with pytest.raises(AssertionError):
        close(mine.flip(-1), theirs)
