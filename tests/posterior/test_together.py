"""Posterior probabilities of several latents together are those of brute force."""

from itertools import combinations

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.brute import brute
from oracles.engines import laid_out
from oracles.oracle import Joint
from oracles.varied import PROGRAMS
from programs.registry import HIDDEN
from torch import Tensor, tensor

from em_pyro import EM, ParameterError
from em_pyro.posterior.posterior import posterior

TOLERANCE = {"mixed_precision": 1e-6}
LABELLED = ("partly_labelled", "partly_labelled_chain")  # labels are not what brute force gives
PLAIN = [name for name in PROGRAMS if name not in (*HIDDEN, *LABELLED, "nested_counts")]


def together(joint: Joint, names: tuple[str, ...]) -> Tensor:
    """Sum the assignments by the states of some latents, entry by entry: plates of all, then states."""
    latents = {latent.name: latent for latent in joint.latents}
    first, at = dict[str, int](), 0
    for latent in joint.latents:
        first[latent.name] = at
        at += latent.shape.numel()
    shape = torch.broadcast_shapes(*(latents[name].shape for name in names))
    sizes = [len(latents[name].support) for name in names]
    entry = {n: torch.arange(latents[n].shape.numel()).reshape(latents[n].shape).expand(shape).flatten() for n in names}
    rows = []
    for cell in range(shape.numel()):
        own = [first[name] + int(entry[name][cell]) for name in names]
        law = joint._law[1][max(joint._unit[e] for e in own)]
        place = torch.zeros(len(law)).long()
        for e, size in zip(own, sizes, strict=True):
            place = place * size + joint.digits[:, e]
        rows.append(torch.zeros(torch.Size(sizes).numel()).double().index_add(0, place, law))
    return torch.stack(rows).reshape(*shape, *sizes)


@pytest.mark.parametrize("name", PLAIN)
def test_brute_force(name: str) -> None:
    """Over all programs, pairs and triples whose plates nest, in the order of the names."""
    built, joint = laid_out(name), brute(name)
    law = posterior(built.compiled, built.here)
    plates = {n: set(latent.plates) for n, latent in law.engine.program.latents.items()}
    groups = [*combinations(plates, 2)][:6] + [*combinations(plates, 3)][:2]
    for names in groups:
        order = sorted((plates[n] for n in names), key=len)
        if not all(a <= b for a, b in zip(order, order[1:], strict=False)):
            with pytest.raises(ParameterError, match="plates nest"):
                law.marginal(names)
            continue
        close(law.marginal(names[::-1]), together(joint, names[::-1]), TOLERANCE.get(name, 1e-10))


def steps(y: Tensor) -> None:
    """Follow two states through a few sequences, under a latent that they share."""
    table = torch.arange(8.0).reshape(2, 2, 2).cos().softmax(-1)
    kind = pyro.sample("kind", dist.Categorical(tensor([0.4, 0.6])))
    z = torch.tensor(0)
    with pyro.plate("sequences", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(table[kind, z]))
            pyro.sample(f"y_{t}", dist.Normal(pyro.param("gap", tensor(1.5)) * z, 1.0), obs=y[:, t])


def test_steps_of_a_chain() -> None:
    """Any two steps, near or far, with what is around the chain; their sums are the marginals."""
    law = EM(steps).posterior(torch.arange(20.0).reshape(2, 10).sin())
    draws = law.sample(20_000, seed=1)
    for names in (("z_3", "z_4"), ("z_7", "z_2"), ("kind", "z_5"), ("z_0", "z_9", "kind")):
        found = law.marginal(names)
        assert found.shape == (2, *(2,) * len(names))
        for k, name in enumerate(names):
            rest = tuple(i - len(names) for i in range(len(names)) if i != k)
            close(
                found.sum(rest), law.marginal(name).expand(2, 2) if name != "kind" else law.marginal(name).repeat(2, 1)
            )
        both = torch.ones(20_000, 2, dtype=torch.bool)
        for name in names:
            both &= draws[name].reshape(20_000, -1) == 1
        chance = found.flatten(1)[:, -1]
        error = (chance * (1 - chance) / 20_000).sqrt()
        assert bool(((both.double().mean(0) - chance).abs() < 5 * error + 1e-9).all()), names


def test_labels() -> None:
    """Rows of a known class have all weight on it; the other latent is as it is given that."""

    def model(x: Tensor, label: Tensor, known: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Categorical(tensor([0.5, 0.5])), obs=label, obs_mask=known)  # type: ignore[arg-type]
            b = pyro.sample("b", dist.Categorical(tensor([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])[a]))
            pyro.sample("x", dist.Normal(pyro.param("step", tensor(1.0)) * a + b, 1.0), obs=x)

    x, label, known = tensor([0.3, 1.9, 1.0]), torch.tensor([1, 0, 0]), tensor([True, True, False])
    found = EM(model).posterior(x, label, known).marginal(("b", "a"))
    prior = 0.5 * tensor([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]]).T
    want = prior * dist.Normal(torch.arange(3.0)[:, None] + torch.arange(2.0), 1.0).log_prob(x[:, None, None]).exp()
    want[0, :, 0] = want[1, :, 1] = 0.0
    close(found, want / want.sum((1, 2), keepdim=True))


def test_what_has_no_table() -> None:
    """Latents that are not there, continuous, twice there, or in plates that cross."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Categorical(tensor([0.5, 0.5])))
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(pyro.param("step", tensor(1.0)) * a + u, 1.0), obs=x)

    law = EM(model).posterior(torch.zeros(3))
    assert law.marginal(("a",)).shape == (3, 2)
    for names, said in (
        (("a", "c"), 'got "c"'),
        (("a", "u"), "continuous"),
        (("a", "a"), "each once"),
        ((), "each once"),
    ):
        with pytest.raises(ParameterError, match=said):
            law.marginal(names)
