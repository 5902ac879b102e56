"""Random programs whose continuous latents are jointly Gaussian given parameters and discrete latents.

As in `random_programs`, a seed becomes the text of an ordinary Pyro model with small data of its own: factor analysis,
effects of groups, chains of steps, values that are missing. `print(gaussian_program(17))` is a script.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from programs.draft import Draft, Latent
from programs.random_programs import compiled


@dataclass(frozen=True)
class GaussianProgram:
    """A model and its arguments.

    Attributes:
        seed: which it is.
        text: of the function `model`.
        args: by name.
        latents: names, or beginnings of names, of the continuous latents that are integrated.
        spelt: text of the same law where every latent has a density, if `text` observes one exactly.
        holes: continuous latents of that.
        continuous: what has to be said of latents that the rule would not integrate.
        rows: whether arguments have a row for each row of one plate, of which the objective is a sum.
    """

    seed: int
    text: str
    args: dict[str, Tensor] = field(repr=False)
    latents: tuple[str, ...]
    spelt: str = ""
    holes: tuple[str, ...] = ()
    continuous: dict[str, str] = field(default_factory=dict)
    rows: bool = False

    @property
    def model(self) -> Callable[..., Any]:
        """The model function."""
        return compiled(self.text)

    @property
    def plain(self) -> Callable[..., Any]:
        """The model with a density for every latent."""
        return compiled(self.spelt or self.text)

    def __str__(self) -> str:
        """Return a script up to where something is asked of the model."""
        lines = [f"    {name}=tensor({value.tolist()})," for name, value in self.args.items()]
        head = f"# seed {self.seed}\ntorch.set_default_dtype(torch.float64)\n"
        return "\n".join([head + self.text, "args = dict(", *lines, ")", f"continuous = {self.continuous}"])


def gaussian_program(seed: int) -> GaussianProgram:
    """Draw the program of that number; the same one on every machine."""
    rng = Random(seed)
    draft = Draft(rng, single=False, priors=rng.random() < 0.3)
    skeleton = rng.choices(list(SKELETONS), weights=list(SKELETONS.values()))[0]
    about = skeleton(draft)
    if draft.priors:
        about["rows"] = False
    args = {name: torch.tensor(value) for name, value in draft.args.items()}
    spelt = draft.text(draft.spelt) if draft.spelt else ""
    return GaussianProgram(seed, draft.text(draft.body), args, spelt=spelt, **about)


# ---- what all of them use --------------------------------------------------------------------------------------------


def _real(draft: Draft) -> float:
    return round(draft.rng.gauss(0, 1.5), 2)


def _data(draft: Draft, name: str, shape: tuple[int, ...]) -> str:
    draft.args[name] = draft.numbers(lambda: _real(draft), shape)
    return name


def _of_law(draft: Draft, domain: str, shape: tuple[int, ...], index: str = "") -> str:
    """Write a parameter of the law of a latent: never one that has a prior, which would be integrated as well."""
    priors, draft.priors = draft.priors, False
    name = draft.parameter(draft.fresh(domain[0]), domain, shape)
    draft.priors = priors
    return name + index


def _in_plate(draft: Draft, plate: str, size: str, line: str) -> None:
    draft.line(f"with pyro.plate('{plate}', {size}):")
    draft.indent()
    draft.line(line)
    draft.outdent()


def _scale(draft: Draft, latents: Sequence[Latent], size: int = 0, *, row: bool = False) -> str:
    """Write a scale: of all coordinates, one for each, or of every row another known one."""
    last = (size,) if size and draft.chance(0.6) else ()
    way = draft.rng.choice(["known", "plain", "plain", "plain", "twice", "root", "exp", "row", "times row"])
    if not row and "row" in way:
        way = "plain"
    if way == "known":
        return str([0.8, 1.1, 0.6][:size] if last else 0.8).replace("[", "tensor([").replace("]", "])")
    if "row" in way:
        known = draft.add("e", lambda: draft.rng.choice([0.5, 1.0, 1.5])) + ("[:, None]" if size else "")
        return known if way == "row" else f"{known} * {draft.tied('positive', ())}"
    if way == "exp":
        return f"{draft.tied('real', last)}.exp()"
    entry = draft.selected("positive", latents, last) if draft.chance(0.4) else draft.tied("positive", last)
    wide = f"{entry}[..., None]" if size and not last and "[" in entry else entry
    return {"twice": f"2 * {wide}", "root": f"{wide}.sqrt()"}.get(way, wide)


def _masked(draft: Draft, law: str, shape: tuple[int, ...], name: str = "seen") -> str:
    if not draft.chance(0.35):
        return law
    draft.args[name] = draft.numbers(lambda: draft.rng.random() < 0.7, shape)
    if any("Categorical" in line for line in draft.body):
        _seen_at_first(draft.args[name])
    return f"{law}.mask({name})"


def _seen_at_first(mask: list[Any]) -> None:
    """Let every row see something: discrete latents that nothing hangs on are left out of steps."""
    for n, row in enumerate(mask[:3]):
        if isinstance(row, list):
            row[0] = True
        else:
            mask[n] = True


def _triangle(draft: Draft, size: int) -> list[list[float]]:
    rng = draft.rng
    return [
        [
            round(rng.gauss(0, 0.4), 2) if j < i else round(rng.uniform(0.7, 1.5), 2) if j == i else 0.0
            for j in range(size)
        ]
        for i in range(size)
    ]


def _covariance(draft: Draft, size: int, *, free: bool = True) -> str:
    """Write the covariance of a law, as what it is free, or known: always where few rows would let it collapse."""
    way = draft.rng.choice(["scale_tril", "scale_tril", "covariance_matrix", "known"] if free else ["known"])
    value = _triangle(draft, size)
    if way == "known":
        return f"scale_tril=tensor({value})"
    name = draft.fresh("t")
    if way == "scale_tril":
        draft.head.append(f"    {name} = pyro.param('{name}', tensor({value}), constraint=constraints.lower_cholesky)")
    else:
        start = f"tensor({value}) @ tensor({value}).mT"
        draft.head.append(f"    {name} = pyro.param('{name}', {start}, constraint=constraints.positive_definite)")
    return f"{way}={name}"


def _mixed(draft: Draft, name: str = "c", probability: float = 0.35) -> list[Latent]:
    """Write a discrete latent, or none."""
    return [draft.latent(name, most=2)] if draft.chance(probability) else []


# ---- factors ---------------------------------------------------------------------------------------------------------


def factors(draft: Draft) -> dict[str, Any]:
    """Write columns explained by a few factors of every row; a mixture of such; a response beside them."""
    rng = draft.rng
    mixed = draft.chance(0.35)
    N, D, k = 3 if mixed else rng.choice([4, 5, 6]), rng.choice([2, 3]), rng.choice([1, 2])
    draft.shape = (N,)
    _data(draft, "x", (N, D))
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    latents = _mixed(draft, probability=1.0 if mixed else 0.0)
    scalar = k == 1 and draft.chance(0.5)
    draft.line(f"z = pyro.sample('z', {_factor_law(draft, latents, 0 if scalar else k)})")
    loc, joint = _factor_location(draft, latents, D, 0 if scalar else k), draft.chance(0.25)
    if draft.chance(0.3):
        loc += f" + {draft.add('u', lambda: _real(draft))}[:, None] * {draft.tied('real', (D,))}"
    if joint:
        law = f"dist.MultivariateNormal({loc}, {_covariance(draft, D, free=not mixed)})"
        law = _masked(draft, law, (N,), "told")
    else:
        law = _masked(draft, f"dist.Normal({loc}, {_scale(draft, latents, D, row=True)})", (N, D)) + ".to_event(1)"
    draft.line(f"pyro.sample('x', {law}, obs=x)")
    if draft.chance(0.4):
        _data(draft, "y", (N,))
        first = "z" if scalar else "z[..., 0]"
        line = f"{draft.selected('real', latents)} + {draft.selected('real', latents)} * {first}"
        law = _masked(draft, f"dist.Normal({line}, {_scale(draft, latents)})", (N,), "answered")
        draft.line(f"pyro.sample('y', {law}, obs=y)")
    if latents and draft.chance(0.3):
        draft.args["d"] = [rng.choice([0.0, 1.0]) for _ in range(N)]
        draft.line(f"pyro.sample('d', dist.Bernoulli({draft.selected('unit', latents)}), obs=d)")
    return {"latents": ("z",), "rows": True}


def _factor_law(draft: Draft, latents: Sequence[Latent], k: int) -> str:
    index, states = (f"[{latents[0][0]}]", (latents[0][1],)) if latents and draft.chance(0.5) else ("", ())
    way = draft.rng.choice(["standard", "standard", "scaled", "moved", "full"])
    if not k:
        where = _of_law(draft, "real", states, index) if way == "moved" else "0.0"
        return f"dist.Normal({where}, {_of_law(draft, 'positive', states, index) if way != 'standard' else 1.0})"
    zeros = f"torch.zeros({k})"
    if way == "full":
        return f"dist.MultivariateNormal({zeros}, {_covariance(draft, k)})"
    where = _of_law(draft, "real", (*states, k), index) if way == "moved" else zeros
    scale = _of_law(draft, "positive", (*states, k), index) if way == "scaled" else "1.0"
    return f"dist.Normal({where}, {scale}).to_event(1)"


def _factor_location(draft: Draft, latents: Sequence[Latent], D: int, k: int) -> str:
    mean = draft.selected("real", latents, (D,)) if draft.chance(0.8) else "0.0"
    if not k:
        return f"z[..., None] * {draft.selected('real', latents, (D,))} + {mean}"
    way = draft.rng.choice(["product", "product", "matrix", "known", "each"])
    if way == "known":
        return f"{mean} + z @ tensor({draft.numbers(lambda: _real(draft), (k, D))})"
    if way == "each":
        which = [draft.rng.randrange(k) for _ in range(D)]
        return f"z[..., tensor({which})] * {draft.selected('real', latents, (D,))} + {mean}"
    if way == "product":
        return f"z @ {draft.tied('real', (D, k))}.T + {mean}"
    return f"({draft.selected('real', latents, (D, k))} @ z[..., None])[..., 0] + {mean}"


# ---- effects ---------------------------------------------------------------------------------------------------------


def effects(draft: Draft) -> dict[str, Any]:
    """Write rows in groups: intercepts, slopes, groups in groups, crossed ones, a level above, classes of groups."""
    rng = draft.rng
    way = rng.choice(["intercept", "slopes", "nested", "crossed", "inside", "above", "classes"])
    G, N = rng.choice([2, 3]), rng.choice([5, 6, 7])
    if way == "inside":
        return _inside(draft, G)
    draft.shape = (N,)
    _data(draft, "y", (N,))
    draft.args["g"] = [n % G if n < G else rng.randrange(G) for n in range(N)]
    latents, classes, mean, centre = ["b"], list[Latent](), "0.0", draft.selected("real", [])
    if way == "above":
        draft.line("m = pyro.sample('m', dist.Normal(0.5, 2.0))")
        latents, mean = ["m", "b"], "m"
    if way == "nested":
        draft.args["of"] = [n % 2 for n in range(G)]
        _in_plate(draft, "schools", "2", f"a = pyro.sample('a', dist.Normal(0.0, {_of_law(draft, 'positive', ())}))")
        latents, mean = ["a", "b"], "a[of]"
    draft.line(f"with pyro.plate('groups', {G}):")
    draft.indent()
    classes = _mixed(draft, probability=1.0 if way == "classes" else 0.0)
    if way == "slopes":
        draft.line(f"b = pyro.sample('b', dist.MultivariateNormal(torch.zeros(2), {_covariance(draft, 2)}))")
    else:
        spread = _of_law(draft, "positive", ())
        if classes:
            mean = _of_law(draft, "real", (2,), "[c]")
            spread = _of_law(draft, "positive", (2,), "[c]") if draft.chance(0.5) else spread
        draft.line(f"b = pyro.sample('b', dist.Normal({mean}, {spread}))")
    draft.outdent()
    effect = "b[g, 0] + b[g, 1] * t" if way == "slopes" else "b[g]"
    if way == "slopes":
        draft.args["t"] = [rng.choice([0.0, 1.0, 2.0, 3.5]) for _ in range(N)]
    if way == "crossed":
        draft.args["h"] = [n % 2 if n < 2 else rng.randrange(2) for n in range(N)]
        _in_plate(draft, "others", "2", f"a = pyro.sample('a', dist.Normal(0.0, {_of_law(draft, 'positive', ())}))")
        effect, latents = "b[g] + a[h]", ["a", "b"]
    if draft.chance(0.3) and way != "slopes":
        effect = f"{draft.selected('real', [])} * ({effect})"
    if draft.chance(0.4):
        effect += f" + {draft.selected('real', [])} * {draft.covariate()}"
    law = _masked(draft, f"dist.Normal({centre} + {effect}, {_scale(draft, [], row=True)})", (N,))
    _in_plate(draft, "rows", "len(y)", f"pyro.sample('y', {law}, obs=y)")
    known = any("scale_tril=tensor" in line for line in draft.body)
    return {"latents": tuple(latents), "continuous": {"b": "integrate"} if known else {}}


def _inside(draft: Draft, G: int) -> dict[str, Any]:
    """Write the plate of the rows inside that of the groups, which may have classes."""
    draft.shape = (G, 3)
    _data(draft, "y", (G, 3))
    draft.line("with pyro.plate('groups', len(y), dim=-2):")
    draft.indent()
    classes = _mixed(draft, probability=0.5)
    index, states = ("[c]", (2,)) if classes else ("", ())
    draft.line(f"b = pyro.sample('b', dist.Normal(0.0, {_of_law(draft, 'positive', states, index)}))")
    draft.line("with pyro.plate('rows', y.shape[1], dim=-1):")
    draft.indent()
    loc = f"{draft.selected('real', classes)} + b" + (
        f" * {draft.selected('real', classes)}" if draft.chance(0.4) else ""
    )
    loc += f" + {draft.selected('real', [])} * {draft.covariate()}" if draft.chance(0.3) else ""
    law = _masked(draft, f"dist.Normal({loc}, {_scale(draft, classes)})", (G, 3))
    draft.line(f"pyro.sample('y', {law}, obs=y)")
    return {"latents": ("b",), "rows": True}


# ---- chains ----------------------------------------------------------------------------------------------------------


def chain(draft: Draft) -> dict[str, Any]:
    """Write a loop of steps: a level, a level with a slope, a vector, two lags; missing steps; sequences in classes."""
    rng = draft.rng
    way = rng.choice(["level", "level", "trend", "vector", "lags", "sequences", "classes"])
    T, D = rng.choice([3, 4, 5]), rng.choice([2, 3])
    several, free = way in ("sequences", "classes"), draft.chance(0.7)
    shape = (2, T) if several else (T, D) if way == "vector" else (T,)
    draft.shape, draft.at = shape[:2] if several else (T,), "[..., t]"
    _data(draft, "y", shape)
    classes = list[Latent]()
    step = _of_law(draft, "positive", (2,) if way in ("vector", "classes") else ()) if free else "0.7"
    if several:
        draft.line("with pyro.plate('sequences', len(y)):")
        draft.indent()
        classes = _mixed(draft, probability=1.0 if way == "classes" else 0.0)
    if way == "classes" and free:
        step += "[c]"
    names, lines = _steps(draft, way, step)
    draft.line("r = s = v = z = torch.zeros(2)" if way == "vector" else "r = s = v = z = 0.0")
    draft.line(f"for t in {rng.choice(['range({})', 'pyro.markov(range({}))']).format(T)}:")
    draft.indent()
    for line in lines:
        draft.line(line)
    if rng.random() < 0.3:
        draft.line(f"if t != {rng.randrange(1, T)}:")
        draft.indent()
    _step_seen(draft, way, D, classes, T)
    known = not free or "scale_tril=tensor" in lines[-1]
    say = {f"{name}_0": "integrate" for name in names} if known and not several else {}
    return {"latents": tuple(f"{name}_" for name in names), "continuous": say, "rows": several}


def _steps(draft: Draft, way: str, step: str) -> tuple[list[str], list[str]]:
    """Return names of latents and the lines of a step; `s` and `r` are those of one and two steps before."""
    if way == "vector":
        F = _of_law(draft, "real", (2, 2)) if draft.chance(0.7) else "tensor([[0.8, 0.3], [-0.2, 0.6]])"
        law = f"dist.Normal(s @ {F}.T if t else s, {step}).to_event(1)"
        if draft.chance(0.4):
            law = f"dist.MultivariateNormal(s @ {F}.T if t else s, {_covariance(draft, 2)})"
        return ["z"], [f"s = pyro.sample(f'z_{{t}}', {law})"]
    if way == "trend":
        slope = _of_law(draft, "positive", ())
        return ["v", "z"], [
            f"u, v = v, pyro.sample(f'v_{{t}}', dist.Normal(v, {slope} if t else 1.0))",
            f"s = pyro.sample(f'z_{{t}}', dist.Normal(s + u, {step} if t else 2.0))",
        ]
    if way == "lags":
        a, b = (_of_law(draft, "real", ()) for _ in range(2))
        return ["z"], [f"r, s = s, pyro.sample(f'z_{{t}}', dist.Normal({a} * s + {b} * r if t > 1 else 0.0, {step}))"]
    rho = f"{_of_law(draft, 'real', ())} * " if draft.chance(0.4) else ""
    first = draft.rng.choice(["2.0", step])
    return ["z"], [f"s = pyro.sample(f'z_{{t}}', dist.Normal({rho}s, {step}) if t else dist.Normal(0.3, {first}))"]


def _step_seen(draft: Draft, way: str, D: int, classes: Sequence[Latent], T: int) -> None:
    """Write what is observed in a step."""
    if way == "vector":
        H = (
            draft.tied("real", (D, 2))
            if draft.chance(0.7)
            else f"tensor({draft.numbers(lambda: _real(draft), (D, 2))})"
        )
        loc = f"s @ {H}.T" + (f" + {draft.tied('real', (D,))}" if draft.chance(0.4) else "")
        law = f"dist.Normal({loc}, {_scale(draft, [], D)})"
        if draft.chance(0.4):
            draft.args["seen"] = draft.numbers(lambda: draft.rng.random() < 0.7, (T, D))
            law += ".mask(seen[t])"
        draft.line(f"pyro.sample(f'y_{{t}}', {law}.to_event(1), obs=y[t])")
        return
    loc = "s" if draft.chance(0.5) else f"{draft.selected('real', classes)} + {draft.selected('real', [])} * s"
    if draft.chance(0.3):
        loc += f" + {draft.tied('real', ())} * (y[..., t - 1] if t else 0.0)"
    law = f"dist.Normal({loc}, {_scale(draft, classes)})"
    if draft.chance(0.3):
        law = f"{law}.mask({draft.add('seen', lambda: draft.rng.random() < 0.7)})"
        if classes:
            _seen_at_first(draft.args["seen"])
    draft.line(f"pyro.sample(f'y_{{t}}', {law}, obs=y[..., t])")


# ---- missing values --------------------------------------------------------------------------------------------------


def holes(draft: Draft) -> dict[str, Any]:
    """Write a normal law of rows with holes, in both idioms; or a regression on a covariate with holes; or mixtures."""
    rng = draft.rng
    way = rng.choice(["latent row", "latent row", "filled in", "filled in", "covariate"])
    if way == "covariate":
        return _covariate_with_holes(draft)
    mixed = draft.chance(0.4)
    N, D = 3 if mixed else rng.choice([4, 5]), rng.choice([2, 3])
    draft.shape = (N,)
    _data(draft, "x", (N, D))
    draft.args["seen"] = draft.numbers(lambda: rng.random() < 0.65, (N, D))
    draft.args["seen"][0] = [False] + [True] * (D - 1)
    body, draft.body = draft.body, []
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    latents = _mixed(draft, probability=1.0 if mixed else 0.0)
    index = f"[{latents[0][0]}]" if latents else ""
    exact = way == "latent row"
    mean = _of_law(draft, "real", (*(2 for _ in latents), D), index) if exact else draft.selected("real", latents, (D,))
    if draft.chance(0.3):
        mean += f" + {draft.add('u', lambda: _real(draft))}[:, None] * {_of_law(draft, 'real', (D,))}"
    law = f"dist.MultivariateNormal({mean}, {_covariance(draft, D)})"
    rows, draft.body = draft.body, body
    fill = [
        "    i, j = (~seen).nonzero(as_tuple=True)",
        "    with pyro.plate('missing', len(i)):",
        "        v = pyro.sample('v', dist.Normal(0.0, 1.0).mask(False))",
        "    full = x.clone()",
        "    full[i, j] = v",
    ]
    filled = [*fill, *rows, f"{draft.pad}pyro.sample('x', {law}, obs=full)"]
    if not exact:
        draft.body = filled
        return {"latents": ("v",)}
    draft.spelt = filled
    draft.body = [
        *rows,
        f"{draft.pad}row = pyro.sample('row', {law})",
        f"{draft.pad}pyro.sample('x', dist.Delta(row).mask(seen).to_event(1), obs=torch.where(seen, x, 0.0))",
    ]
    return {"latents": ("row",), "holes": ("v",), "rows": True}


def _covariate_with_holes(draft: Draft) -> dict[str, Any]:
    """Write a regression on a covariate that has a normal law and holes."""
    rng, N = draft.rng, draft.rng.choice([4, 5, 6])
    draft.shape = (N,)
    _data(draft, "x", (N,))
    _data(draft, "y", (N,))
    draft.args["i"] = sorted(rng.sample(range(N), 2))
    _in_plate(draft, "missing", "len(i)", "v = pyro.sample('v', dist.Normal(0.0, 1.0).mask(False))")
    draft.line("full = x.clone()")
    draft.line("full[i] = v")
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    law = f"dist.Normal({_of_law(draft, 'real', ())}, {_of_law(draft, 'positive', ())})"
    draft.line(f"pyro.sample('x', {law}, obs=full)")
    line = f"{draft.selected('real', [])} + {draft.selected('real', [])} * full"
    if draft.chance(0.4):
        line += f" + {draft.selected('real', [])} * {draft.covariate()}"
    draft.line(f"pyro.sample('y', dist.Normal({line}, {_scale(draft, [], row=True)}), obs=y)")
    return {"latents": ("v",)}


SKELETONS: dict[Callable[[Draft], dict[str, Any]], float] = {factors: 4, effects: 3, chain: 3, holes: 3}
"""Each with how often it is drawn."""
