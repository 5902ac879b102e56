"""Which law every parameter has: from its prior and from where it enters, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributions as dist
from torch.distributions import Distribution

from ..e_step.engine import Engine
from ..errors import ParameterError, PlanError
from ..m_step.pooling import Refused
from ..m_step.uses import charts_of, kind_of, uses_of
from ..program.named import unwrap
from ..reading.priors import exponent
from .conjugate import Conjugate, Untouched
from .kinds import HINTS, KINDS, OTHERWISE, THROUGH, Uses
from .normal_wishart import NormalWishart

Priors = Mapping[Any, Any]


def choose(engine: Engine, given: Priors) -> tuple[Conjugate, ...]:
    """Give every parameter of a program its law.

    Args:
        engine: of the program.
        given: priors by the name of a parameter, or by two names.

    Raises:
        ParameterError: a prior is of no parameter, or does not fit its shape.
        PlanError: a parameter has no conjugate prior; says why, and what to do.
    """
    priors, uses = _all_priors(engine, given), uses_of(engine)
    if engine.recognition.latents is not None:
        names = ", ".join(f'"{n}"' for n in sorted(engine.program.integrated))
        raise PlanError(f"VariationalEM: expected discrete latents, got {names}, continuous and integrated. Use EM.")
    found = list[Conjugate]()
    for together, prior in priors.items():
        if isinstance(prior, Distribution) and not any(_enters(engine, name, uses) for name in together):
            found.append(Untouched(together[0], prior, engine.program.parameters[together[0]].initial.shape))
            continue
        try:
            kinds = {kind_of(engine, engine.program.parameters[name], uses[name]) for name in together}
            found.append(_law(engine, together, prior, kinds, uses))
        except Refused as why:
            of = " and ".join(f'"{name}"' for name in together)
            raise PlanError(
                f"VariationalEM: expected a conjugate prior of {of}, got {_named(prior)}: {why}. Give another in "
                f"priors=, or fit the program by EM."
            ) from None
    return tuple(found)


def _enters(engine: Engine, name: str, uses: Uses) -> bool:
    """Whether a parameter enters any site, one that is replayed too."""
    recognition = engine.recognition
    replayed = [names for site, names in recognition.reaches.items() if site in (*engine.replayed, *engine.absorbed)]
    others = [*replayed, *(refusal.parameters for refusal in recognition.refusals.values())]
    return bool(uses[name]) or any(name in names for names in others)


def _all_priors(engine: Engine, given: Priors) -> dict[tuple[str, ...], Any]:
    """Every parameter's prior, by the names that share it: those given, and those in the program."""
    parameters, found = engine.program.parameters, dict[tuple[str, ...], Any]()
    for key, prior in given.items():
        names = (key,) if isinstance(key, str) else tuple(key)
        for name in names:
            if name not in parameters:
                raise ParameterError(f'priors: expected names among {sorted(parameters)}, got "{name}".')
            if any(name in others for others in found):
                raise ParameterError(f'priors: expected one prior of "{name}", got two. Leave one out.')
            if parameters[name].kind == "prior":
                raise ParameterError(
                    f'priors: expected no second prior of site "{name}", got {_named(prior)} beside the one in the '
                    f"program. Change that one."
                )
        found[names] = prior
    for name in parameters:
        if not any(name in names for names in found):
            found[(name,)] = _of_site(engine, name)
    return found


def _of_site(engine: Engine, name: str) -> Distribution | None:
    """The prior of a site as it is in the program; None of a parameter that has none.

    Raises:
        PlanError: it is no probability density whose arguments are known.
    """
    prior = engine.priors.get(name)
    if prior is None:
        return None
    site = engine.recognition.runs[0][name]
    if prior.fn is None or bool((exponent(site) != 1).any()):
        why = "has parameters" if prior.fn is None else "is masked or scaled, and no density of one"
        raise PlanError(f'VariationalEM: expected a prior of "{name}" with known arguments, got one that {why}.')
    base = unwrap(prior.fn).base
    return base if isinstance(base, dist.Distribution) else None


def _law(engine: Engine, names: tuple[str, ...], prior: Any, kinds: set[str], uses: Uses) -> Conjugate:
    """Make the law of one parameter, or of two.

    Raises:
        Refused: the prior is not conjugate to where they enter.
    """
    if len(names) > 2 or len(names) == 2 and not isinstance(prior, NormalWishart):
        raise Refused("two parameters have a law together where they are a mean and its scale: a NormalWishart")
    (kind,) = kinds if len(kinds) == 1 else (" and ".join(sorted(kinds)),)
    affine = [(f.name, key) for name in names for f, key, role in uses[name] if role.affine is not None]
    if affine and (kind != "normal" or len(names) > 1):
        site, key = affine[0]
        raise Refused(f'"{key}" of site "{site}" is affine in it, as in a regression, and no selection of it')
    if prior is None:
        raise Refused(f"it has none, and one is needed: {HINTS.get(kind, 'there is none of that kind')}")
    make = KINDS.get((kind, _kind(prior)))
    if make is None:
        raise Refused(f"where it enters, laws are {HINTS.get(kind, 'none that are conjugate')}")
    through = THROUGH.get(make, "itself")
    if len(names) == 1 and charts_of(engine, names[0], uses[names[0]]) != {through}:
        raise Refused(OTHERWISE[through].format(type(prior).__name__))
    return make(engine, names, prior, uses)


def _kind(prior: Any) -> type:
    """The distribution as torch has it."""
    counts, positive = (dist.Dirichlet, dist.Beta), (dist.Gamma, dist.InverseGamma, dist.Exponential)
    kinds = (*counts, *positive, dist.MultivariateNormal, dist.Normal)
    return next((kind for kind in kinds if isinstance(prior, kind)), type(prior))


def _named(prior: Any) -> str:
    return "none" if prior is None else f"a {type(prior).__name__}"
