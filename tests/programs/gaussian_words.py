"""What random programs with Gaussian latents are written of: laws, scales, covariances and masks."""

from collections.abc import Sequence
from typing import Any

from programs.draft import Draft, Latent


def real(draft: Draft) -> float:
    """Draw a number."""
    return round(draft.rng.gauss(0, 1.5), 2)


def values(draft: Draft, name: str, shape: tuple[int, ...]) -> str:
    """Draw what is observed; return its name."""
    draft.args[name] = draft.numbers(lambda: real(draft), shape)
    return name


def of_law(draft: Draft, domain: str, shape: tuple[int, ...], index: str = "") -> str:
    """Write a parameter of the law of a latent: never one that has a prior, which would be integrated as well."""
    priors, draft.priors = draft.priors, False
    name = draft.parameter(draft.fresh(domain[0]), domain, shape)
    draft.priors = priors
    return name + index


def in_plate(draft: Draft, plate: str, size: str, line: str) -> None:
    """Write a line inside a plate of its own."""
    draft.line(f"with pyro.plate('{plate}', {size}):")
    draft.indent()
    draft.line(line)
    draft.outdent()


def scale_text(draft: Draft, latents: Sequence[Latent], size: int = 0, *, row: bool = False) -> str:
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


def masked(draft: Draft, law: str, shape: tuple[int, ...], name: str = "seen") -> str:
    """Write a law, sometimes under a mask."""
    if not draft.chance(0.35):
        return law
    draft.args[name] = draft.numbers(lambda: draft.rng.random() < 0.7, shape)
    if any("Categorical" in line for line in draft.body):
        seen_at_first(draft.args[name])
    return f"{law}.mask({name})"


def seen_at_first(mask: list[Any]) -> None:
    """Let every row see something: discrete latents that nothing hangs on are left out of steps."""
    for n, row in enumerate(mask[:3]):
        if isinstance(row, list):
            row[0] = True
        else:
            mask[n] = True


def triangle(draft: Draft, size: int) -> list[list[float]]:
    """Draw a Cholesky factor."""
    rng = draft.rng
    return [
        [
            round(rng.gauss(0, 0.4), 2) if j < i else round(rng.uniform(0.7, 1.5), 2) if j == i else 0.0
            for j in range(size)
        ]
        for i in range(size)
    ]


def covariance_text(draft: Draft, size: int, *, free: bool = True) -> str:
    """Write the covariance of a law, as what it is free, or known: always where few rows would let it collapse."""
    way = draft.rng.choice(["scale_tril", "scale_tril", "covariance_matrix", "known"] if free else ["known"])
    value = triangle(draft, size)
    if way == "known":
        return f"scale_tril=tensor({value})"
    name = draft.fresh("t")
    if way == "scale_tril":
        draft.head.append(f"    {name} = pyro.param('{name}', tensor({value}), constraint=constraints.lower_cholesky)")
    else:
        start = f"tensor({value}) @ tensor({value}).mT"
        draft.head.append(f"    {name} = pyro.param('{name}', {start}, constraint=constraints.positive_definite)")
    return f"{way}={name}"


def classes_or_none(draft: Draft, name: str = "c", probability: float = 0.35) -> list[Latent]:
    """Write a discrete latent, or none."""
    return [draft.latent(name, most=2)] if draft.chance(probability) else []
