"""The laws of every kind: what makes one of a prior and of where its parameter enters.

To add one, write what makes it and give it a row in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as pyro_dist
import torch
import torch.distributions as dist
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.site_factor import SiteFactor
from ..errors import ParameterError
from ..families.charts import domain_of
from ..families.normal import LINEAR
from ..m_step.counts import Counts, Rates
from ..m_step.least_squares.lines import LineSite
from ..m_step.least_squares.scalar import ScalarSite
from ..m_step.least_squares.solver import SITES, Site
from ..m_step.pooling import Refused, used_charts
from ..m_step.uses import Block, Use, chart_of, charts_of, terms_of
from .coefficients import Coefficients, check_alone
from .conjugate import Conjugate, Probabilities, Rate
from .entering import scales_of
from .locations import Mean, MeanAndScale
from .normal_wishart import NormalWishart
from .precisions import Precision, Variance
from .stick_breaking import StickBreaking

Uses = Mapping[str, list[Use]]
LOCATIONS = ("normal", "multivariate_normal")
PRECISION, VARIANCE = "rsqrt", "sqrt"
"""The functions through which a precision and a variance are scales."""


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
    (name,) = names
    return Rate(name, _gamma(engine, name, prior), Rates.of(engine, Block((name,), "rates", uses, {})))


def _gamma(engine: Engine, name: str, prior: Any) -> dist.Gamma:
    """A prior of numbers above zero; an Exponential is one."""
    shape = engine.program.parameters[name].initial.shape
    concentration = torch.ones_like(prior.rate) if isinstance(prior, dist.Exponential) else prior.concentration
    return dist.Gamma(_spread(name, concentration, shape), _spread(name, prior.rate, shape))


def _precision(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    return Precision(names[0], _gamma(engine, names[0], prior), _scaled_sites(engine, names[0], prior, uses))


def _variance(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    return Variance(names[0], _gamma(engine, names[0], prior), _scaled_sites(engine, names[0], prior, uses))


def _scaled_sites(engine: Engine, name: str, prior: Any, uses: Uses) -> tuple[tuple[SiteFactor, ScalarSite], ...]:
    """Sites of which a parameter is the scale alone, through one function."""
    if any(key != "scale" for _, key, _ in uses[name]):
        raise Refused(f"a {type(prior).__name__} is the law of what is in a scale, and of nothing else there")
    sites = list[tuple[SiteFactor, ScalarSite]]()
    for factor in terms_of(engine, (name,)):
        if factor.roles["loc"].affine is not None:
            raise Refused(f'at site "{factor.name}" the mean has covariates, whose noise has to be known')
        sites.append((factor, ScalarSite.of(engine, factor)))
    return tuple(sites)


def _mean(engine: Engine, names: tuple[str, ...], prior: Any, uses: Uses) -> Conjugate:
    (name,), shape = names, engine.program.parameters[names[0]].initial.shape
    for factor, key, _ in uses[name]:
        if key != "loc" or not _settled(engine, factor):
            raise Refused(
                f'the scale of site "{factor.name}" is a parameter too: give both a law together, '
                f"priors={{(mean, scale): em_pyro.NormalWishart(...)}}, or write it as precision ** -0.5 with a Gamma, "
                f"or as variance ** 0.5 with an InverseGamma"
            )
    if any(role.affine is not None for _, _, role in uses[name]):
        return _coefficients(engine, name, prior, shape)
    sites = _sites(engine, names)
    if any(factor.family.event_dim for factor, _, _ in uses[name]):
        return Mean(name, _vectors(name, prior, shape), sites)
    if not isinstance(prior, dist.Normal):
        raise Refused("coordinates that are independent in the data have a Normal each")
    return Mean(name, dist.Normal(_spread(name, prior.loc, shape), _spread(name, prior.scale, shape)), sites)


def _settled(engine: Engine, factor: SiteFactor) -> bool:
    """Whether the scale of a site is known, or by a precision or variance that has a law or is refused itself."""
    key = "scale" if "scale" in factor.roles else "scale_tril"
    role, bank = factor.roles[key], engine.recognition.bank
    if role.known:
        return True
    affine = role.affine is not None or factor.roles["loc"].affine is not None
    names = bank.parameters(role, factor.family.roles[key].domain)
    segments = bank.touched(role, factor.family.roles[key].domain)
    return not affine and all(used_charts(role, segments, name) in ({PRECISION}, {VARIANCE}) for name in names)


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
    ("normal", dist.Gamma): _precision,
    ("normal", dist.Exponential): _precision,
    ("normal", dist.InverseGamma): _variance,
    **{(kind, law): _mean for kind in LOCATIONS for law in (dist.Normal, dist.MultivariateNormal)},
    **{(kind, NormalWishart): _pair for kind in LOCATIONS},
}
"""By the kind of its sites (`Family.solver`) and the prior: what makes the law."""

THROUGH: Mapping[Maker, str] = {_precision: PRECISION, _variance: VARIANCE}
"""The function through which a parameter has to enter, where that is not itself."""

OTHERWISE = {
    "itself": "it enters through a function",
    PRECISION: "a {} is the law of a precision, which makes a scale by value ** -0.5",
    VARIANCE: "an {} is the law of a variance, which makes a scale by its square root",
}
"""What to say where it enters otherwise."""

HINTS = {
    "counts": "a Dirichlet or StickBreaking on rows that add up to one, a Beta on single probabilities",
    "rates": "a Gamma",
    **dict.fromkeys(
        LOCATIONS,
        "a Normal on a mean, a Gamma on a precision, an InverseGamma on a variance, a NormalWishart on "
        "a mean and its scale",
    ),
}
