"""What random programs are made of: parameters, latents, and ways to compute an argument from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random
from typing import Any

Latent = tuple[str, int]
"""The name of a latent, and how many states it has."""

COVARIATE = ("line", "times", "regression", "exposure")
"""Ways that use a known number of the row."""

WEIGHTS = {2: [0.37, 0.63], 3: [0.25, 0.43, 0.32]}


@dataclass
class Draft:
    """A program while it is written.

    Attributes:
        head: lines that make the parameters.
        body: lines after them.
        args: nested lists by name, in the order in which the model takes them.
        shape: of the data of the plates at hand, steps of a chain last.
        at: how a step is taken from them.
        lagged: whether the last value of an observation may be its covariate; `lag` is what is written for it.
        whole: whether every argument needs an entry for each state, and no covariate (inside `DiscreteHMM`).
    """

    rng: Random
    single: bool
    priors: bool
    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    spelt: list[str] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)
    known: dict[tuple[str, tuple[int, ...]], list[str]] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    at: str = ""
    lagged: bool = False
    lag: str = ""
    whole: bool = False
    pad: str = "    "
    count: int = 0

    def text(self, body: Sequence[str]) -> str:
        """Return the whole function."""
        return "\n".join([f"def model({', '.join(self.args)}):", *self.head, *body, ""])

    def line(self, text: str) -> None:
        """Add a line to the body."""
        self.body.append(self.pad + text)

    def indent(self) -> None:
        """Go into a block."""
        self.pad += "    "

    def outdent(self) -> None:
        """Leave a block."""
        self.pad = self.pad[:-4]

    def chance(self, probability: float) -> bool:
        """Toss a coin."""
        return self.rng.random() < probability

    # ---- data ----

    def data_name(self) -> str:
        """Name the next observation."""
        return f"x{sum(name[0] == 'x' for name in self.args) + 1}"

    def numbers(self, draw: Callable[[], Any], shape: tuple[int, ...]) -> Any:
        """Fill nested lists."""
        return [self.numbers(draw, shape[1:]) for _ in range(shape[0])] if shape else draw()

    def add(self, name: str, draw: Callable[[], Any]) -> str:
        """Add an argument with an entry for each row, unless it is there; return what the model writes for it."""
        if name in self.args and _shape(self.args[name]) != self.shape:
            name += "b"
        if name not in self.args:
            self.args[name] = self.numbers(draw, self.shape)
        return name + self.at

    def shrink(self) -> None:
        """Cut what was drawn for more rows than there are now."""
        self.args = {name: value[: self.shape[0]] for name, value in self.args.items()}

    def weights(self, *, unsqueezed: bool = False) -> str:
        """Weigh the rows: by numbers, or all by the same."""
        if self.chance(0.3):
            return str(self.rng.choice([0.5, 2.5]))
        self.args["w"] = [self.rng.choice([0.5, 1.0, 2.0, 1.25, 3.0]) for _ in range(self.shape[0])]
        return "w.unsqueeze(-1)" if unsqueezed else "w"

    # ---- parameters ----

    def fresh(self, stem: str) -> str:
        """Name the next parameter."""
        self.count += 1
        return f"{stem}{self.count}"

    def tied(self, domain: str, shape: tuple[int, ...]) -> str:
        """Return a parameter of that kind: mostly a new one, sometimes one that is used already."""
        have = self.known.setdefault((domain, shape), [])
        if have and self.chance(0.2):
            return self.rng.choice(have)
        have.append(self.parameter(self.fresh(domain[0]), domain, shape))
        return have[-1]

    def parameter(self, name: str, domain: str, shape: tuple[int, ...]) -> str:
        """Write a parameter, or where the program has priors perhaps a site with one."""
        start, constraint, priors = DOMAINS[domain]
        if self.priors and priors and self.chance(0.5):
            law = self.rng.choice(priors).format(C=shape[-1] if shape else 0)
            batch = shape[:-1] if domain == "simplex" else shape
            wide = f".expand({list(batch)}).to_event({len(batch)})" if batch else ""
            self.head.append(f"    {name} = pyro.sample('{name}', dist.{law}{wide})")
        else:
            value = start(self.rng, shape)
            self.head.append(f"    {name} = pyro.param('{name}', tensor({value}){constraint})")
        return name

    # ---- sites ----

    def latent(self, name: str, above: Sequence[Latent] = (), *, labelled: bool = False, most: int = 3) -> Latent:
        """Write a latent, whose law may depend on those above."""
        states = self.rng.randint(2, most)
        way = self.rng.choice(["simplex", "simplex", "simplex", "softmax", "known", "pair"])
        index = f"[{', '.join(n for n, _ in above)}]" if above else ""
        shape = tuple(k for _, k in above)
        if way == "pair" and states == 2:
            share = f"{self.tied('unit', shape)}{index}"
            law = f"torch.stack([{share}, 1 - {share}], -1)"
        elif way == "softmax":
            law = f"torch.softmax({self.tied('real', (*shape, states))}{index}, -1)"
        elif way == "known" and not above:
            law = f"tensor({WEIGHTS[states]})"
        else:
            law = f"{self.parameter(f'{name}_law', 'simplex', (*shape, states))}{index}"
        seen = ""
        if labelled:
            self.args["label"] = [self.rng.randrange(states) for _ in range(self.shape[0])]
            self.args["told"] = [k % 3 == 1 for k in range(self.shape[0])]
            seen = ", obs=label, obs_mask=told"
        self.line(f"{name} = pyro.sample('{name}', dist.Categorical({law}){seen})")
        return name, states

    # ---- arguments ----

    def way(self, ways: str) -> str:
        """Choose a way to compute an argument."""
        return self.rng.choice([way for way in ways.split() if not (self.whole and way in COVARIATE)])

    def selected(self, domain: str, latents: Sequence[Latent], last: tuple[int, ...] = ()) -> str:
        """Select an entry of a parameter by some of the latents, or by none."""
        few = [latent for latent in latents if self.whole or self.chance(0.85)]
        index = f"[{', '.join(n for n, _ in few)}]" if few else ""
        return self.tied(domain, (*(k for _, k in few), *last)) + index

    def covariate(self) -> str:
        """Return a covariate of the row."""
        if self.lagged and self.chance(0.6):
            return f"({self.lag})"
        return self.add("u", lambda: round(self.rng.gauss(0, 1), 2))

    def line_in(self, latents: Sequence[Latent]) -> str:
        """Return a predictor that is affine in two parameters."""
        return f"{self.selected('real', latents)} + {self.selected('real', latents)} * {self.covariate()}"

    def real(self, latents: Sequence[Latent]) -> str:
        """Return a real argument."""
        way = self.way("plain plain plain plain line line affine times log bend sum half")
        if way == "line":
            return self.line_in(latents)
        if way == "log":
            return f"{self.selected('positive', latents)}.log()"
        entry = self.selected("real", latents)
        if way == "times":
            return f"{entry} * {self.covariate()}"
        if way == "sum":
            return f"{entry} + 0.5 * {self.selected('real', latents)}"
        return {"affine": f"2 * {entry} - 0.5", "bend": f"2 * torch.tanh({entry})", "half": f"-{entry} / 4"}.get(
            way, entry
        )

    def positive(self, latents: Sequence[Latent]) -> str:
        """Return a positive argument."""
        way = self.way("plain plain plain plain exp regression double exposure softplus over square")
        if way == "regression":
            return f"({self.line_in(latents)}).exp()"
        if way in ("exp", "softplus"):
            entry = self.selected("real", latents)
            return f"{entry}.exp()" if way == "exp" else f"torch.nn.functional.softplus({entry})"
        entry = self.selected("positive", latents)
        if way == "exposure":
            return f"{self.add('e', lambda: self.rng.choice([0.5, 1.0, 1.5, 2.0]))} * {entry}"
        return {"double": f"2 * {entry}", "over": f"1 / {entry}", "square": f"{entry} ** 2"}.get(way, entry)

    def scale(self, latents: Sequence[Latent]) -> str:
        """Return a scale: mostly one for all or known, because few rows let a free one collapse."""
        way = self.rng.choice(["known", "known", "tied", "tied", "free"])
        return "0.8" if way == "known" else self.positive([] if way == "tied" else latents)

    def unit(self, latents: Sequence[Latent]) -> str:
        """Return a probability."""
        way = self.way("plain plain plain plain sigmoid regression other part")
        if way == "regression":
            return f"torch.sigmoid({self.line_in(latents)})"
        if way == "sigmoid":
            return f"torch.sigmoid({self.selected('real', latents)})"
        entry = self.selected("unit", latents)
        return {"other": f"1 - {entry}", "part": f"0.8 * {entry} + 0.1"}.get(way, entry)


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, list) else ()


# ---- domains of parameters -------------------------------------------------------------------------------------------


def _filled(rng: Random, shape: tuple[int, ...], draw: Callable[[], float]) -> Any:
    return [_filled(rng, shape[1:], draw) for _ in range(shape[0])] if shape else draw()


def _simplex(rng: Random, shape: tuple[int, ...]) -> Any:
    if len(shape) > 1:
        return [_simplex(rng, shape[1:]) for _ in range(shape[0])]
    parts = [rng.randint(15, 60) for _ in range(shape[0])]
    rounded = [round(part / sum(parts), 3) for part in parts]
    return [*rounded[:-1], round(1 - sum(rounded[:-1]), 3)]


def _triangle(rng: Random, shape: tuple[int, ...]) -> Any:
    if len(shape) > 2:
        return [_triangle(rng, shape[1:]) for _ in range(shape[0])]
    return [[round(rng.uniform(0.7, 1.5), 2), 0.0], [round(rng.gauss(0, 0.4), 2), round(rng.uniform(0.7, 1.5), 2)]]


def _covariance(rng: Random, shape: tuple[int, ...]) -> Any:
    if len(shape) > 2:
        return [_covariance(rng, shape[1:]) for _ in range(shape[0])]
    c = round(rng.uniform(-0.4, 0.4), 2)
    return [[round(rng.uniform(0.7, 2.0), 2), c], [c, round(rng.uniform(0.7, 2.0), 2)]]


DOMAINS: dict[str, tuple[Callable[[Random, tuple[int, ...]], Any], str, list[str]]] = {
    "real": (
        lambda rng, shape: _filled(rng, shape, lambda: round(rng.gauss(0, 1), 2)),
        "",
        ["Normal(0.0, 2.0)", "Normal(0.3, 1.0)", "Normal(-0.5, 1.5)", "StudentT(5.0, 0.0, 1.0)"],
    ),
    "positive": (
        lambda rng, shape: _filled(rng, shape, lambda: round(exp(rng.gauss(0, 0.5)), 2)),
        ", constraint=constraints.positive",
        ["Gamma(2.0, 1.0)", "Gamma(3.0, 2.5)", "LogNormal(0.0, 1.0)", "InverseGamma(3.0, 2.0)"],
    ),
    "unit": (
        lambda rng, shape: _filled(rng, shape, lambda: round(rng.uniform(0.15, 0.85), 2)),
        ", constraint=constraints.unit_interval",
        ["Beta(2.0, 2.0)", "Beta(1.5, 3.0)"],
    ),
    "simplex": (_simplex, ", constraint=constraints.simplex", ["Dirichlet(1.5 * torch.ones({C}))"]),
    "triangle": (_triangle, ", constraint=constraints.lower_cholesky", []),
    "covariance": (_covariance, ", constraint=constraints.positive_definite", []),
}
"""For each: how starting values are drawn, the constraint, and priors that a parameter may have."""
