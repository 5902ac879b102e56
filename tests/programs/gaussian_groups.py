"""Random programs of rows that share Gaussian latents: effects of groups, chains of steps."""

from collections.abc import Sequence
from typing import Any

from programs.draft import Draft, Latent
from programs.gaussian_words import (
    classes_or_none,
    covariance_text,
    in_plate,
    masked,
    of_law,
    real,
    scale_text,
    seen_at_first,
    values,
)

# ---- effects ---------------------------------------------------------------------------------------------------------


def effects(draft: Draft) -> dict[str, Any]:
    """Write rows in groups: intercepts, slopes, groups in groups, crossed ones, a level above, classes of groups."""
    rng = draft.rng
    way = rng.choice(["intercept", "slopes", "nested", "crossed", "inside", "above", "classes"])
    G, N = rng.choice([2, 3]), rng.choice([5, 6, 7])
    if way == "inside":
        return _inside(draft, G)
    draft.shape = (N,)
    values(draft, "y", (N,))
    draft.args["g"] = [n % G if n < G else rng.randrange(G) for n in range(N)]
    latents, classes, mean, centre = ["b"], list[Latent](), "0.0", draft.selected("real", [])
    if way == "above":
        draft.line("m = pyro.sample('m', dist.Normal(0.5, 2.0))")
        latents, mean = ["m", "b"], "m"
    if way == "nested":
        draft.args["of"] = [n % 2 for n in range(G)]
        in_plate(draft, "schools", "2", f"a = pyro.sample('a', dist.Normal(0.0, {of_law(draft, 'positive', ())}))")
        latents, mean = ["a", "b"], "a[of]"
    draft.line(f"with pyro.plate('groups', {G}):")
    draft.indent()
    classes = classes_or_none(draft, probability=1.0 if way == "classes" else 0.0)
    if way == "slopes":
        draft.line(f"b = pyro.sample('b', dist.MultivariateNormal(torch.zeros(2), {covariance_text(draft, 2)}))")
    else:
        spread = of_law(draft, "positive", ())
        if classes:
            mean = of_law(draft, "real", (2,), "[c]")
            spread = of_law(draft, "positive", (2,), "[c]") if draft.chance(0.5) else spread
        draft.line(f"b = pyro.sample('b', dist.Normal({mean}, {spread}))")
    draft.outdent()
    effect = "b[g, 0] + b[g, 1] * t" if way == "slopes" else "b[g]"
    if way == "slopes":
        draft.args["t"] = [rng.choice([0.0, 1.0, 2.0, 3.5]) for _ in range(N)]
    if way == "crossed":
        draft.args["h"] = [n % 2 if n < 2 else rng.randrange(2) for n in range(N)]
        in_plate(draft, "others", "2", f"a = pyro.sample('a', dist.Normal(0.0, {of_law(draft, 'positive', ())}))")
        effect, latents = "b[g] + a[h]", ["a", "b"]
    if draft.chance(0.3) and way != "slopes":
        effect = f"{draft.selected('real', [])} * ({effect})"
    if draft.chance(0.4):
        effect += f" + {draft.selected('real', [])} * {draft.covariate()}"
    law = masked(draft, f"dist.Normal({centre} + {effect}, {scale_text(draft, [], row=True)})", (N,))
    in_plate(draft, "rows", "len(y)", f"pyro.sample('y', {law}, obs=y)")
    known = any("scale_tril=tensor" in line for line in draft.body)
    return {"latents": tuple(latents), "continuous": {"b": "integrate"} if known else {}}


def _inside(draft: Draft, G: int) -> dict[str, Any]:
    """Write the plate of the rows inside that of the groups, which may have classes."""
    draft.shape = (G, 3)
    values(draft, "y", (G, 3))
    draft.line("with pyro.plate('groups', len(y), dim=-2):")
    draft.indent()
    classes = classes_or_none(draft, probability=0.5)
    index, states = ("[c]", (2,)) if classes else ("", ())
    draft.line(f"b = pyro.sample('b', dist.Normal(0.0, {of_law(draft, 'positive', states, index)}))")
    draft.line("with pyro.plate('rows', y.shape[1], dim=-1):")
    draft.indent()
    loc = f"{draft.selected('real', classes)} + b" + (
        f" * {draft.selected('real', classes)}" if draft.chance(0.4) else ""
    )
    loc += f" + {draft.selected('real', [])} * {draft.covariate()}" if draft.chance(0.3) else ""
    law = masked(draft, f"dist.Normal({loc}, {scale_text(draft, classes)})", (G, 3))
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
    values(draft, "y", shape)
    classes = list[Latent]()
    step = of_law(draft, "positive", (2,) if way in ("vector", "classes") else ()) if free else "0.7"
    if several:
        draft.line("with pyro.plate('sequences', len(y)):")
        draft.indent()
        classes = classes_or_none(draft, probability=1.0 if way == "classes" else 0.0)
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
        F = of_law(draft, "real", (2, 2)) if draft.chance(0.7) else "tensor([[0.8, 0.3], [-0.2, 0.6]])"
        law = f"dist.Normal(s @ {F}.T if t else s, {step}).to_event(1)"
        if draft.chance(0.4):
            law = f"dist.MultivariateNormal(s @ {F}.T if t else s, {covariance_text(draft, 2)})"
        return ["z"], [f"s = pyro.sample(f'z_{{t}}', {law})"]
    if way == "trend":
        slope = of_law(draft, "positive", ())
        return ["v", "z"], [
            f"u, v = v, pyro.sample(f'v_{{t}}', dist.Normal(v, {slope} if t else 1.0))",
            f"s = pyro.sample(f'z_{{t}}', dist.Normal(s + u, {step} if t else 2.0))",
        ]
    if way == "lags":
        a, b = (of_law(draft, "real", ()) for _ in range(2))
        return ["z"], [f"r, s = s, pyro.sample(f'z_{{t}}', dist.Normal({a} * s + {b} * r if t > 1 else 0.0, {step}))"]
    rho = f"{of_law(draft, 'real', ())} * " if draft.chance(0.4) else ""
    first = draft.rng.choice(["2.0", step])
    return ["z"], [f"s = pyro.sample(f'z_{{t}}', dist.Normal({rho}s, {step}) if t else dist.Normal(0.3, {first}))"]


def _step_seen(draft: Draft, way: str, D: int, classes: Sequence[Latent], T: int) -> None:
    """Write what is observed in a step."""
    if way == "vector":
        H = draft.tied("real", (D, 2)) if draft.chance(0.7) else f"tensor({draft.numbers(lambda: real(draft), (D, 2))})"
        loc = f"s @ {H}.T" + (f" + {draft.tied('real', (D,))}" if draft.chance(0.4) else "")
        law = f"dist.Normal({loc}, {scale_text(draft, [], D)})"
        if draft.chance(0.4):
            draft.args["seen"] = draft.numbers(lambda: draft.rng.random() < 0.7, (T, D))
            law += ".mask(seen[t])"
        draft.line(f"pyro.sample(f'y_{{t}}', {law}.to_event(1), obs=y[t])")
        return
    loc = "s" if draft.chance(0.5) else f"{draft.selected('real', classes)} + {draft.selected('real', [])} * s"
    if draft.chance(0.3):
        loc += f" + {draft.tied('real', ())} * (y[..., t - 1] if t else 0.0)"
    law = f"dist.Normal({loc}, {scale_text(draft, classes)})"
    if draft.chance(0.3):
        law = f"{law}.mask({draft.add('seen', lambda: draft.rng.random() < 0.7)})"
        if classes:
            seen_at_first(draft.args["seen"])
    draft.line(f"pyro.sample(f'y_{{t}}', {law}, obs=y[..., t])")
