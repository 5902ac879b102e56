"""Which law every parameter has: from its prior and from where it enters, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as pyro_dist
import torch
import torch.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from ..e_step.engine import Engine
from ..errors import ParameterError, PlanError
from ..families.charts import domain_of
from ..families.normal import LINEAR
from ..m_step.counts import Counts, Rates
from ..m_step.least_squares.lines import LineSite
from ..m_step.least_squares.solver import SITES, Site
from ..m_step.pooling import Refused
from ..m_step.uses import Block, Use, chart_of, charts_of, kind_of, terms_of, uses_of
from ..program.named import unwrap
from ..reading.priors import exponent
from .coefficients import Coefficients, check_alone
from .conjugate import Conjugate, Probabilities, Rate, Untouched
from .entering import scales_of
from .locations import Mean, MeanAndScale
from .normal_wishart import NormalWishart
from .stick_breaking import StickBreaking

Priors = Mapping[Any, Any]
Uses = Mapping[str, list[Use]]
LOCATIONS = ("normal", "multivariate_normal")


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
        raise Refused(f"it has none, and one is needed: {_HINTS.get(kind, 'there is none of that kind')}")
    make = KINDS.get((kind, _kind(prior)))
    if make is None:
        raise Refused(f"where it enters, laws are {_HINTS.get(kind, 'none that are conjugate')}")
    if len(names) == 1 and charts_of(engine, names[0], uses[names[0]]) != {"itself"}:
        raise Refused("it enters through a function")
    return make(engine, names, prior, uses)


def _kind(prior: Any) -> type:
    """The distribution as torch has it."""
    kinds = (dist.Dirichlet, dist.Beta, dist.Gamma, dist.MultivariateNormal, dist.Normal, dist.Exponential)
    return next((kind for kind in kinds if isinstance(prior, kind)), type(prior))


def _named(prior: Any) -> str:
    return "none" if prior is None else f"a {type(prior).__name__}"


# ---- one kind after the other ----------------------------------------------------------------------------------------


def _probabilities(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    name, parameter = names[0], engine.program.parameters[names[0]]
    simplex, shape = domain_of(parameter.constraint) == "simplex", parameter.initial.shape
    if simplex == isinstance(prior, (dist.Beta, pyro_dist.Uniform)):
        raise Refused("rows that add up to one have a Dirichlet or StickBreaking, single probabilities a Beta")
    law = prior
    if isinstance(prior, dist.Dirichlet):
        law = dist.Dirichlet(_spread(name, prior.concentration, shape))
    elif isinstance(prior, dist.Beta):
        law = dist.Beta(_spread(name, prior.concentration1, shape), _spread(name, prior.concentration0, shape))
    elif isinstance(prior, pyro_dist.Uniform):
        if not bool(((prior.low == 0) & (prior.high == 1)).all()):
            raise Refused("a Uniform on a part of all probabilities")
        one = torch.ones(shape, dtype=torch.float64)
        law = dist.Beta(one, one)
    return Probabilities(name, law, Counts.of(engine, Block((name,), "counts", uses, {})))


def _rate(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    (name,), shape = names, engine.program.parameters[names[0]].initial.shape
    concentration = torch.ones_like(prior.rate) if isinstance(prior, dist.Exponential) else prior.concentration
    law = dist.Gamma(_spread(name, concentration, shape), _spread(name, prior.rate, shape))
    return Rate(name, law, Rates.of(engine, Block((name,), "rates", uses, {})))


def _mean(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    (name,), shape = names, engine.program.parameters[names[0]].initial.shape
    for factor, key, _ in uses[name]:
        scale = "scale" if "scale" in factor.roles else "scale_tril"
        if key != "loc" or not factor.roles[scale].known:
            raise Refused(
                f'the scale of site "{factor.name}" is a parameter too: give both a law together, '
                f"priors={{(mean, scale): em_pyro.NormalWishart(...)}}"
            )
    if any(role.affine is not None for _, _, role in uses[name]):
        return _coefficients(engine, name, prior, shape)
    sites = _sites(engine, names)
    if any(factor.family.event_dim for factor, _, _ in uses[name]):
        return Mean(name, _vectors(name, prior, shape), sites)
    if not isinstance(prior, dist.Normal):
        raise Refused("coordinates that are independent in the data have a Normal each")
    return Mean(name, dist.Normal(_spread(name, prior.loc, shape), _spread(name, prior.scale, shape)), sites)


def _coefficients(engine: Engine, name: str, prior: Any, shape: torch.Size) -> Conjugate:
    sites = list[LineSite]()
    for factor in terms_of(engine, (name,)):
        if factor.family is not LINEAR:
            raise Refused(f'at site "{factor.name}" it is no row of coefficients of covariates')
        sites.append(LineSite.of(engine, factor))
        check_alone(sites[-1], name, shape)
    return Coefficients(name, _vectors(name, prior, shape), tuple(sites))


def _vectors(name: str, prior: Any, shape: torch.Size) -> dist.MultivariateNormal:
    """A prior of rows."""
    loc = _spread(name, prior.loc, shape)
    if isinstance(prior, dist.MultivariateNormal):
        return dist.MultivariateNormal(loc, scale_tril=_spread(name, prior.scale_tril, (*shape, shape[-1])))
    return dist.MultivariateNormal(loc, scale_tril=_spread(name, prior.scale, shape).diag_embed())


def _pair(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    if len(names) == 1:
        raise Refused("a NormalWishart is of two parameters: key it by the names of the mean and of its scale")
    loc, scale = names
    sites = _sites(engine, names)
    roles = [{key for _, key, _ in uses[name]} for name in names]
    if roles[0] != {"loc"} or "loc" in roles[1]:
        raise Refused("the first is to be the mean of a Normal, the second its scale")
    if charts_of(engine, loc, uses[loc]) != {"itself"}:
        raise Refused(f'"{loc}" enters through a function')
    shapes = tuple(engine.program.parameters[name].initial.shape for name in names)
    dim = sites[0].loc.unit[0] if sites[0].loc.unit else 1
    batch = shapes[0][:-1] if sites[0].loc.unit else shapes[0]
    of = scales_of(sites, (loc, batch.numel()), (scale, shapes[1].numel() // (dim * dim)))
    try:
        law = prior.expand(batch)
        assert law.dim == dim
    except (RuntimeError, AssertionError):
        raise ParameterError(
            f"priors[{names}]: expected a NormalWishart of {dim} coordinates that broadcasts to batch shape "
            f"{tuple(batch)}, got {prior.dim} and {tuple(prior.batch_shape)}."
        ) from None
    _check_shared(names, law, of)
    return MeanAndScale(loc, scale, law, sites, chart_of(engine, scale, uses[scale]), (shapes[0], shapes[1]), of)


def _check_shared(names: tuple[str, ...], law: NormalWishart, of: Tensor) -> None:
    """Refuse priors that differ between means with the same scale: it has one."""
    first = torch.stack([(of == k).nonzero()[0, 0] for k in of])
    inverse, df = law.scale_matrix_inverse.reshape((-1, law.dim, law.dim)), law.df.reshape(-1)
    if not torch.equal(inverse[first], inverse) or not torch.equal(df[first], df):
        raise ParameterError(
            f"priors[{names}]: expected one scale_matrix_inverse and df for means that share a scale, got several. Its "
            f"prior counts once."
        )


def _sites(engine: Engine, names: tuple[str, ...]) -> tuple[Site, ...]:
    """Sites of a mean, as least squares have them."""
    found = []
    for factor in terms_of(engine, names):
        if factor.family.roles["loc"].event_dim > factor.family.event_dim:
            raise Refused(f'the mean at site "{factor.name}" has covariates')
        found.append(SITES[factor.family.solver].of(engine, factor))
    return tuple(found)


def _spread(name: str, part: Tensor, shape: Any) -> Tensor:
    """Broadcast an argument of a prior to its parameter."""
    try:
        return part.detach().double().expand(tuple(shape)).clone()
    except RuntimeError:
        raise ParameterError(
            f'priors["{name}"]: expected arguments that broadcast to {tuple(shape)}, got {tuple(part.shape)}.'
        ) from None


Maker = Callable[[Engine, tuple[str, ...], Any, Uses], Conjugate]
KINDS: Mapping[tuple[str, type], Maker] = {
    ("counts", dist.Dirichlet): _probabilities,
    ("counts", dist.Beta): _probabilities,
    ("counts", StickBreaking): _probabilities,
    ("counts", pyro_dist.Uniform): _probabilities,
    ("rates", dist.Gamma): _rate,
    ("rates", dist.Exponential): _rate,
    **{(kind, law): _mean for kind in LOCATIONS for law in (dist.Normal, dist.MultivariateNormal)},
    **{(kind, NormalWishart): _pair for kind in LOCATIONS},
}
"""By the kind of its sites (`Family.solver`) and the prior: what makes the law."""

_HINTS = {
    "counts": "a Dirichlet or StickBreaking on rows that add up to one, a Beta on single probabilities",
    "rates": "a Gamma",
    **dict.fromkeys(LOCATIONS, "a Normal on a mean with a known scale, a NormalWishart on a mean and its scale"),
}
