"""Random programs of rows that have Gaussian latents of their own: factors of columns, values that are missing."""

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
    values,
)

# ---- factors ---------------------------------------------------------------------------------------------------------


def factors(draft: Draft) -> dict[str, Any]:
    """Write columns explained by a few factors of every row; a mixture of such; a response beside them."""
    rng = draft.rng
    mixed = draft.chance(0.35)
    N, D, k = 3 if mixed else rng.choice([4, 5, 6]), rng.choice([2, 3]), rng.choice([1, 2])
    draft.shape = (N,)
    values(draft, "x", (N, D))
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    latents = classes_or_none(draft, probability=1.0 if mixed else 0.0)
    scalar = k == 1 and draft.chance(0.5)
    draft.line(f"z = pyro.sample('z', {_factor_law(draft, latents, 0 if scalar else k)})")
    loc, joint = _factor_location(draft, latents, D, 0 if scalar else k), draft.chance(0.25)
    if draft.chance(0.3):
        loc += f" + {draft.add('u', lambda: real(draft))}[:, None] * {draft.tied('real', (D,))}"
    if joint:
        law = f"dist.MultivariateNormal({loc}, {covariance_text(draft, D, free=not mixed)})"
        law = masked(draft, law, (N,), "told")
    else:
        law = masked(draft, f"dist.Normal({loc}, {scale_text(draft, latents, D, row=True)})", (N, D)) + ".to_event(1)"
    draft.line(f"pyro.sample('x', {law}, obs=x)")
    if draft.chance(0.4):
        values(draft, "y", (N,))
        first = "z" if scalar else "z[..., 0]"
        line = f"{draft.selected('real', latents)} + {draft.selected('real', latents)} * {first}"
        law = masked(draft, f"dist.Normal({line}, {scale_text(draft, latents)})", (N,), "answered")
        draft.line(f"pyro.sample('y', {law}, obs=y)")
    if latents and draft.chance(0.3):
        draft.args["d"] = [rng.choice([0.0, 1.0]) for _ in range(N)]
        draft.line(f"pyro.sample('d', dist.Bernoulli({draft.selected('unit', latents)}), obs=d)")
    return {"latents": ("z",), "rows": True}


def _factor_law(draft: Draft, latents: Sequence[Latent], k: int) -> str:
    index, states = (f"[{latents[0][0]}]", (latents[0][1],)) if latents and draft.chance(0.5) else ("", ())
    way = draft.rng.choice(["standard", "standard", "scaled", "moved", "full"])
    if not k:
        where = of_law(draft, "real", states, index) if way == "moved" else "0.0"
        return f"dist.Normal({where}, {of_law(draft, 'positive', states, index) if way != 'standard' else 1.0})"
    zeros = f"torch.zeros({k})"
    if way == "full":
        return f"dist.MultivariateNormal({zeros}, {covariance_text(draft, k)})"
    where = of_law(draft, "real", (*states, k), index) if way == "moved" else zeros
    scale = of_law(draft, "positive", (*states, k), index) if way == "scaled" else "1.0"
    return f"dist.Normal({where}, {scale}).to_event(1)"


def _factor_location(draft: Draft, latents: Sequence[Latent], D: int, k: int) -> str:
    mean = draft.selected("real", latents, (D,)) if draft.chance(0.8) else "0.0"
    if not k:
        return f"z[..., None] * {draft.selected('real', latents, (D,))} + {mean}"
    way = draft.rng.choice(["product", "product", "matrix", "known", "each"])
    if way == "known":
        return f"{mean} + z @ tensor({draft.numbers(lambda: real(draft), (k, D))})"
    if way == "each":
        which = [draft.rng.randrange(k) for _ in range(D)]
        return f"z[..., tensor({which})] * {draft.selected('real', latents, (D,))} + {mean}"
    if way == "product":
        return f"z @ {draft.tied('real', (D, k))}.T + {mean}"
    return f"({draft.selected('real', latents, (D, k))} @ z[..., None])[..., 0] + {mean}"


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
    values(draft, "x", (N, D))
    draft.args["seen"] = draft.numbers(lambda: rng.random() < 0.65, (N, D))
    draft.args["seen"][0] = [False] + [True] * (D - 1)
    body, draft.body = draft.body, []
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    latents = classes_or_none(draft, probability=1.0 if mixed else 0.0)
    index = f"[{latents[0][0]}]" if latents else ""
    exact = way == "latent row"
    mean = of_law(draft, "real", (*(2 for _ in latents), D), index) if exact else draft.selected("real", latents, (D,))
    if draft.chance(0.3):
        mean += f" + {draft.add('u', lambda: real(draft))}[:, None] * {of_law(draft, 'real', (D,))}"
    law = f"dist.MultivariateNormal({mean}, {covariance_text(draft, D)})"
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
    values(draft, "x", (N,))
    values(draft, "y", (N,))
    draft.args["i"] = sorted(rng.sample(range(N), 2))
    in_plate(draft, "missing", "len(i)", "v = pyro.sample('v', dist.Normal(0.0, 1.0).mask(False))")
    draft.line("full = x.clone()")
    draft.line("full[i] = v")
    draft.line("with pyro.plate('rows', len(x)):")
    draft.indent()
    law = f"dist.Normal({of_law(draft, 'real', ())}, {of_law(draft, 'positive', ())})"
    draft.line(f"pyro.sample('x', {law}, obs=full)")
    line = f"{draft.selected('real', [])} + {draft.selected('real', [])} * full"
    if draft.chance(0.4):
        line += f" + {draft.selected('real', [])} * {draft.covariate()}"
    draft.line(f"pyro.sample('y', dist.Normal({line}, {scale_text(draft, [], row=True)}), obs=y)")
    return {"latents": ("v",)}
