"""Values that a posterior gives have the shape of Pyro's own, and draws cost one pass."""

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, tensor

from em_pyro import EM, ParameterError
from em_pyro.e_step.contraction import drawn
from em_pyro.e_step.contraction.schedule import Schedule

X = tensor([[2.0, 2.2, 1.8], [0.1, -0.2, 0.0]], dtype=torch.float64)
LOC = tensor([0.0, 2.0], dtype=torch.float64)


def levels(x: Tensor) -> None:
    """Latents outside all plates, in the outer one, and in both."""
    g = pyro.sample("g", dist.Categorical(tensor([0.5, 0.5])))
    with pyro.plate("groups", len(x), dim=-2):
        u = pyro.sample("u", dist.Categorical(tensor([[0.8, 0.2], [0.3, 0.7]])[g]))
        with pyro.plate("rows", x.shape[1], dim=-1):
            v = pyro.sample("v", dist.Bernoulli(tensor([0.3, 0.6])[u]))
            pyro.sample("x", dist.Normal(LOC[u] + v, 1.0), obs=x)


def leading(x: Tensor) -> None:
    """A latent with a batch dimension of no plate, one in a plate with a gap, and one in a plate of one row."""
    a = pyro.sample("a", dist.Categorical(tensor([[0.4, 0.6]])))
    with pyro.plate("groups", len(x), dim=-3):
        b = pyro.sample("b", dist.Categorical(tensor([0.7, 0.3])))
        with pyro.plate("single", 1, dim=-2), pyro.plate("rows", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(LOC[b] + a, 1.0), obs=x[:, None])


def log_joint(model: object, values: dict[str, Tensor]) -> float:
    """The model's own log-density of the values."""
    return float(poutine.trace(poutine.condition(model, data=values)).get_trace(X).log_prob_sum())


@pytest.mark.parametrize("model", [levels, leading])
def test_shapes(model: object) -> None:
    """Mode, draws and marginals have the shape of what the model itself samples; the mode is the best of all."""
    law = EM(model).posterior(X)  # type: ignore[arg-type]
    own = {n: site for n, site in poutine.trace(model).get_trace(X).nodes.items() if n in law.mode()}
    mode, draws = law.mode(), law.sample(7)
    for name, site in own.items():
        shape = site["value"].shape
        assert mode[name].shape == shape
        assert draws[name].shape == (7, *shape)
        assert law.marginal(name).shape == (*shape, 2)
    sizes = [site["value"].numel() for site in own.values()]
    every = []
    for line in itertools.product([0, 1], repeat=sum(sizes)):
        parts = torch.tensor(line).split(sizes)
        values = {
            n: part.reshape(site["value"].shape).to(site["value"])
            for (n, site), part in zip(own.items(), parts, strict=True)
        }
        every.append((log_joint(model, values), values))
    close(log_joint(model, mode), max(score for score, _ in every))
    weight = tensor([score for score, _ in every]).softmax(0)
    for name in own:
        chance = sum(w * values[name].double() for w, (_, values) in zip(weight, every, strict=True))
        assert isinstance(chance, Tensor)
        close(law.marginal(name)[..., 1], chance, IDENTITY)


def chain(y: Tensor) -> None:
    """Follow three states through a sequence, under a latent that all sequences share."""
    table = torch.arange(18.0).reshape(2, 3, 3).cos().softmax(-1)
    kind = pyro.sample("kind", dist.Categorical(tensor([0.5, 0.5])))
    z = torch.tensor(0)
    with pyro.plate("sequences", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(table[kind, z]))
            pyro.sample(f"y_{t}", dist.Normal(z.double(), 1.0), obs=y[:, t])


def test_draws_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are drawn at a time, they come from the marginals, and the pass is made once."""
    law = EM(chain).posterior(torch.arange(20.0).reshape(2, 10).sin() + 1)
    passes: list[int] = []
    eliminations = Schedule.eliminations

    def counted(*args: object, **options: bool) -> list[Tensor]:
        passes.append(1)
        return eliminations(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Schedule, "eliminations", counted)
    for at_once in (1, 700, drawn.AT_ONCE):
        monkeypatch.setattr(drawn, "AT_ONCE", at_once)
        passes.clear()
        draws = law.sample(100 if at_once == 1 else 1500, seed=2)
        assert len(passes) == 1
        for name, found in draws.items():
            want = law.marginal(name)
            got = torch.nn.functional.one_hot(found, want.shape[-1]).double().mean(0)
            assert bool(((got - want).abs() <= 5 * (want * (1 - want) / len(found)).sqrt() + 1e-9).all()), name


def test_states_of_weight_zero() -> None:
    """They are never drawn, wherever they stand; where all are impossible, no state is worse than another."""
    generator = torch.Generator().manual_seed(0)
    logits = tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])[None, :, None]
    found = drawn.drawn(logits, 5000, -2, generator)
    assert found.shape == (5000, 1)
    assert set(found.flatten().tolist()) == {1, 3}
    assert set(drawn.drawn(torch.full((1, 3, 1), -torch.inf), 200, -2, generator).flatten().tolist()) == {0, 1, 2}
    assert sum(drawn.portions(10, [drawn.AT_ONCE // 3])) == 10


def test_a_long_parameter_is_printed() -> None:
    """Of a table of items the first and last columns are shown, with its shape."""

    def items(a: Tensor) -> None:
        p = pyro.param("p", torch.linspace(0.2, 0.8, 80).reshape(2, 40), constraint=dist.constraints.unit_interval)
        with pyro.plate("persons", len(a)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("a", dist.Bernoulli(p[z]).to_event(1), obs=a)

    text = str(EM(items, max_steps=0).fit((torch.arange(200.0).reshape(5, 40) % 3 == 0).double()))
    assert "shape (2, 40), from 0.2 to 0.8" in text
    assert "[0.2     , 0.207595, 0.21519 , ..., 0.481013, 0.488608, 0.496203]" in text


@pytest.mark.parametrize(
    "asked", [{"n": 0}, {"n": -1}, {"n": 2.5}, {"n": True}, {"n": "2"}, {"seed": "a"}, {"seed": None}]
)
def test_what_is_no_number_of_draws_is_refused(asked: dict[str, Any]) -> None:
    """By name, with what was given."""
    (name,) = asked
    with pytest.raises(ParameterError, match=f"sample: expected {name} to be"):
        EM(levels).posterior(X).sample(**asked)


@pytest.mark.parametrize("asked", [3, None, 2.5])
def test_what_is_no_name_is_refused(asked: Any) -> None:
    """With the names that there are."""
    with pytest.raises(ParameterError, match=r"marginal: expected the name of a latent site.*'g', 'u', 'v'"):
        EM(levels).posterior(X).marginal(asked)
