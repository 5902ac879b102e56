"""Families of observations for random programs: how the text of one is written, and data that it may have made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from random import Random
from typing import Any

from programs.draft import Draft, Latent


@dataclass(frozen=True)
class Law:
    """The text of a distribution, the sizes that its data need, and whether its values are vectors."""

    text: str
    sizes: tuple[int, ...] = ()
    event: bool = False


def observation(draft: Draft, latents: Sequence[Latent], suffix: str = "") -> None:
    """Write an observed site."""
    name, write = draft.rng.choices(LAWS, weights=[2 if n in COMMON else 1 for n, _ in LAWS])[0]
    x = draft.data_name()
    draft.lag = f"{x}[..., t - 1] if t else 0.0"
    law = write(draft, latents, x)
    draft.args[x] = data(draft, name, law.sizes)
    value = x + (draft.at.replace("]", ", :]") if law.event and draft.at else draft.at)
    label = f"f'{x}{suffix}'" if suffix else f"'{x}'"
    how = draft.rng.random()
    if how < 0.15:
        seen = draft.add("seen", lambda: draft.chance(0.7))
        draft.line(f"with poutine.mask(mask={seen}):")
        draft.line(f"    pyro.sample({label}, {law.text}, obs={value})")
    elif how < 0.3:
        seen = draft.add("seen", lambda: draft.chance(0.7))
        draft.line(f"pyro.sample({label}, {law.text}.mask({seen}), obs={value})")
    else:
        draft.line(f"pyro.sample({label}, {law.text}, obs={value})")


def data(draft: Draft, family: str, sizes: tuple[int, ...] = ()) -> Any:
    """Draw data that the family may have made."""
    return draft.numbers(lambda: DATA[family](draft.rng, *sizes), draft.shape)


Writer = Callable[[Draft, Sequence[Latent], str], Law]


def _bernoulli(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.Bernoulli({d.unit(z)})" if d.chance(0.6) else f"dist.Bernoulli(logits={d.real(z)})")


def _binomial(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.Binomial(6, {d.unit(z)})" if d.chance(0.6) else f"dist.Binomial(6, logits={d.real(z)})")


def _geometric(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.Geometric({d.unit(z)})")


def _negative_binomial(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.NegativeBinomial(3.0, logits={d.real(z)})")


def _categorical(d: Draft, z: Sequence[Latent], x: str) -> Law:
    states = d.rng.choice([2, 3])
    if d.chance(0.7):
        return Law(f"dist.Categorical({d.selected('simplex', z, (states,))})", (states,))
    return Law(f"dist.Categorical(logits={d.selected('real', z, (states,))})", (states,))


def _multinomial(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.Multinomial(5, {d.selected('simplex', z, (3,))})", event=True)


def _plane(d: Draft, z: Sequence[Latent], x: str) -> Law:
    loc = d.selected("real", z, (2,))
    way = d.rng.choice(["tied", "free", "covariance"])
    if way == "covariance":
        return Law(f"dist.MultivariateNormal({loc}, {d.selected('covariance', [], (2, 2))})", event=True)
    tril = d.selected("triangle", [] if way == "tied" else z, (2, 2))
    return Law(f"dist.MultivariateNormal({loc}, scale_tril={tril})", event=True)


def _dirichlet(d: Draft, z: Sequence[Latent], x: str) -> Law:
    return Law(f"dist.Dirichlet({d.selected('positive', z, (3,))})", event=True)


def _located(family: str) -> Writer:
    return lambda d, z, x: Law(f"dist.{family}({d.real(z)}, {d.scale(z)})")


def _two_shapes(family: str) -> Writer:
    return lambda d, z, x: Law(f"dist.{family}({d.positive(z)}, {d.positive(z)})")


LAWS: list[tuple[str, Writer]] = [
    ("Normal", _located("Normal")),
    ("LogNormal", _located("LogNormal")),
    ("MultivariateNormal", _plane),
    ("Bernoulli", _bernoulli),
    ("Binomial", _binomial),
    ("Categorical", _categorical),
    ("Poisson", lambda d, z, x: Law(f"dist.Poisson({d.positive(z)})")),
    ("Exponential", lambda d, z, x: Law(f"dist.Exponential({d.positive(z)})")),
    ("Gamma", _two_shapes("Gamma")),
    ("Beta", _two_shapes("Beta")),
    ("Geometric", _geometric),
    ("NegativeBinomial", _negative_binomial),
    ("Multinomial", _multinomial),
    ("Dirichlet", _dirichlet),
    ("StudentT", lambda d, z, x: Law(f"dist.StudentT(4.0, {d.real(z)}, {d.scale(z)})")),
    ("Laplace", lambda d, z, x: Law(f"dist.Laplace({d.selected('real', z)}, {d.scale(z)})")),  # a line is slow: kinks
    ("Weibull", _two_shapes("Weibull")),
    ("VonMises", lambda d, z, x: Law(f"dist.VonMises({d.real(z)}, {d.positive(z)})")),
    ("Gumbel", _located("Gumbel")),
    ("HalfNormal", lambda d, z, x: Law(f"dist.HalfNormal({d.positive(z)})")),
]
"""Families of observations, and how the text of one is written from latents."""

COMMON = ("Normal", "MultivariateNormal", "Bernoulli", "Binomial", "Categorical", "Poisson", "Gamma")


def _shares(rng: Random) -> list[float]:
    parts = [rng.uniform(0.3, 2) for _ in range(3)]
    first, second = (round(part / sum(parts), 3) for part in parts[:2])
    return [first, second, round(1 - first - second, 3)]


def _draws(rng: Random) -> list[float]:
    cells = [rng.randrange(3) for _ in range(5)]
    return [float(cells.count(k)) for k in range(3)]


def _gaussian(rng: Random) -> float:
    return round(rng.choice([-1.2, 1.2]) + rng.gauss(0, 1), 2)


def _positive(rng: Random) -> float:
    return round(exp(rng.gauss(0, 0.8)) + 0.05, 2)


DATA: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("Normal", "StudentT", "Laplace", "Gumbel"), _gaussian),
    **dict.fromkeys(("LogNormal", "Exponential", "Gamma", "Weibull", "HalfNormal"), _positive),
    "MultivariateNormal": lambda rng: [_gaussian(rng), _gaussian(rng)],
    "Bernoulli": lambda rng: float(rng.random() < 0.5),
    "Binomial": lambda rng: float(rng.randint(0, 6)),
    "Categorical": lambda rng, states: rng.randrange(states),
    "Multinomial": _draws,
    **dict.fromkeys(("Poisson", "Geometric", "NegativeBinomial"), lambda rng: float(rng.choice([0, 1, 1, 2, 3, 5]))),
    "Beta": lambda rng: round(rng.uniform(0.05, 0.95), 2),
    "Dirichlet": _shares,
    "VonMises": lambda rng: round(rng.uniform(-3, 3), 2),
}
"""What each observation looks like."""
