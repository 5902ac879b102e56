"""Random programs: a seed becomes the text of an ordinary Pyro model, with small data of its own.

A program is a skeleton (rows, two plates, groups of rows, a chain of steps, a hidden Markov model as one site) whose
latents, observations and arguments are drawn from tables. It is written out, so that one that fails can be read and run
by itself:

    print(random_program(17))
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from programs.draft import Draft
from programs.observed import LAWS, data, observation
from programs.written import Written


@dataclass(frozen=True)
class RandomProgram(Written):
    """A model and its arguments.

    Attributes:
        rows: whether the first dimension of every argument may be permuted and repeated.
        weighted: whether rows have weights, or all of them one.
        adds: whether the objective of rows repeated is that of the rows times their number.
    """

    rows: bool = False
    weighted: bool = False
    adds: bool = False


def random_program(seed: int) -> RandomProgram:
    """Draw the program of that number; the same one on every machine."""
    rng = Random(seed)
    draft = Draft(rng, single=rng.random() < 0.15, priors=rng.random() < 0.35)
    skeleton = rng.choices(list(SKELETONS), weights=list(SKELETONS.values()))[0]
    about = skeleton(draft)
    dtype = torch.float32 if draft.single else torch.float64
    args = {name: torch.tensor(v, dtype=dtype if _real(v) else None) for name, v in draft.args.items()}
    spelt = draft.text(draft.spelt) if draft.spelt else ""
    return RandomProgram(seed, draft.text(draft.body), args, spelt, dtype, **about)


def _real(value: Any) -> bool:
    while isinstance(value, list):
        value = value[0]
    return isinstance(value, float)


# ---- skeletons -------------------------------------------------------------------------------------------------------


def rows(draft: Draft) -> dict[str, bool]:
    """Write one plate of rows: one latent or two, perhaps one above the plate, labels, weights, masks."""
    rng = draft.rng
    draft.shape = (rng.choice([4, 5, 6]),)
    weight = draft.weights() if rng.random() < 0.3 else ""
    outside = not weight and rng.random() < 0.15
    above = [draft.latent("g")] if outside else []
    wrap = f"poutine.scale(scale={weight}), " if weight else ""
    first = draft.data_name()
    draft.line(f"with {wrap}pyro.plate('rows', len({first})):")
    draft.indent()
    labelled = rng.random() < 0.2
    states = draft.latent("z", above, labelled=labelled, most=2 if outside or rng.random() < 0.6 else 3)
    latents = [*above, states]
    if rng.random() < 0.25 and states[1] == 2:
        draft.shape = (4,)
        draft.shrink()
        latents.append(draft.latent("c", [states] if rng.random() < 0.5 else [], most=2))
    for _ in range(rng.choice([1, 1, 2, 2, 3])):
        observation(draft, latents)
    return {"rows": True, "weighted": bool(weight), "adds": not (draft.priors or outside)}


def two_plates(draft: Draft) -> dict[str, bool]:
    """Write two plates side by side, which may share parameters."""
    for plate, latent in (("first", "z"), ("second", "c")):
        draft.shape = (draft.rng.choice([3, 4]),)
        draft.line(f"with pyro.plate('{plate}', len({draft.data_name()})):")
        draft.indent()
        latents = [draft.latent(latent, most=2)]
        for _ in range(draft.rng.choice([1, 2])):
            observation(draft, latents)
        draft.outdent()
    return {}


def groups(draft: Draft) -> dict[str, bool]:
    """Write rows inside groups, with a latent of the group, of the row or of both."""
    rng = draft.rng
    inner = rng.random() < 0.5
    draft.shape = (2, 2) if inner else (rng.choice([3, 4]), 3)
    first = draft.data_name()
    weight = draft.weights(unsqueezed=True) if rng.random() < 0.25 else ""
    wrap = f"poutine.scale(scale={weight}), " if weight else ""
    draft.line(f"with {wrap}pyro.plate('groups', {first}.shape[0], dim=-2):")
    draft.indent()
    latents = [draft.latent("g", most=2 if inner else 3)]
    draft.line(f"with pyro.plate('rows', {first}.shape[1], dim=-1):")
    draft.indent()
    if inner:
        latents.append(draft.latent("z", latents if rng.random() < 0.7 else [], most=2))
    for _ in range(rng.choice([1, 2])):
        observation(draft, latents)
    return {"rows": True, "weighted": bool(weight), "adds": not draft.priors}


def chain(draft: Draft) -> dict[str, bool]:
    """Write a `pyro.markov` loop, alone or in a plate of sequences; sometimes two chains, or the last value beside."""
    rng = draft.rng
    several, two = rng.random() < 0.4, rng.random() < 0.2
    steps = 3 if several else 4 if two else rng.choice([4, 5, 6])
    two, states = two and not several, 2 if several or two else rng.choice([2, 3])
    draft.shape, draft.at = (2, steps) if several else (steps,), "[..., t]"
    names = ["s", "r"] if two else ["s"]
    for name in names:
        draft.parameter(f"{name}_initial", "simplex", (states,))
        draft.parameter(f"{name}_moves", "simplex", (states, states))
    weight = draft.weights() if several and rng.random() < 0.3 else ""
    if several:
        wrap = f"poutine.scale(scale={weight}), " if weight else ""
        draft.line(f"with {wrap}pyro.plate('sequences', len({draft.data_name()})):")
        draft.indent()
    draft.line(f"{' = '.join(names)} = None")
    draft.line(f"for t in pyro.markov(range({steps})):")
    draft.indent()
    for name in names:
        law = f"dist.Categorical({name}_initial if t == 0 else {name}_moves[{name}])"
        draft.line(f"{name} = pyro.sample(f'{name}_{{t}}', {law})")
    draft.lagged = rng.random() < 0.3
    for _ in range(rng.choice([1, 1, 2])):
        observation(draft, [(name, states) for name in names], suffix="_{t}")
    return {"rows": several, "weighted": bool(weight), "adds": several and not draft.priors}


def hidden(draft: Draft) -> dict[str, bool]:
    """Write `dist.DiscreteHMM`, and beside it the same law as a loop."""
    rng = draft.rng
    several, states, draft.whole = rng.random() < 0.4, rng.choice([2, 3]), True
    draft.shape = (2, 3) if several and states == 2 else (2, 2) if several else (rng.choice([3, 4, 5]),)
    initial = draft.parameter("initial", "simplex", (states,))
    moves = draft.parameter("moves", "simplex", (states, states))
    name, write = rng.choice([law for law in LAWS if law[0] in HIDDEN])
    x = draft.data_name()
    law = write(draft, [("slice(None)", states)], x)
    draft.args[x] = data(draft, name, law.sizes)
    if several:
        draft.line(f"with pyro.plate('sequences', len({x})):")
        draft.indent()
    time = "-2" if law.event else "-1"
    draft.spelt = [
        *draft.body,
        draft.pad + f"s = pyro.sample('s', dist.Categorical({initial}))",
        draft.pad + f"for t in pyro.markov(range({x}.shape[{time}])):",
        draft.pad + f"    s = pyro.sample(f's_{{t}}', dist.Categorical({moves}[s]))",
        draft.pad + f"    pyro.sample(f'{x}_{{t}}', {law.text.replace('slice(None)', 's')}, "
        f"obs={x}[..., t{', :' if law.event else ''}])",
    ]
    emission = law.text.replace("[slice(None)]", "")
    draft.line(f"chain = dist.DiscreteHMM({initial}.log(), {moves}.log(), {emission}, duration={x}.shape[{time}])")
    draft.line(f"pyro.sample('{x}', chain, obs={x})")
    return {"rows": several, "adds": several and not draft.priors}


HIDDEN = ("Normal", "Poisson", "Categorical", "Bernoulli", "MultivariateNormal", "Exponential")

SKELETONS: dict[Callable[[Draft], dict[str, bool]], float] = {rows: 5, two_plates: 1, groups: 2, chain: 3, hidden: 1}
"""Each with how often it is drawn."""
