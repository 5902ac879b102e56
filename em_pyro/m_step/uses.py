"""Where a parameter is used, and what that says of its maximum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import torch

from ..e_step.engine import Engine
from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..families.charts import CHARTS, Chart, bounds_of, domain_of
from ..program.site import Parameter
from ..program.unroll import user_site
from ..reading.bank import Bank, RoleMap, Segment
from ..reading.priors import LOCATIONS
from ..records.frozen import frozen
from .pooling import Refused, select, used_charts

CONDITIONAL = ": conditional closed forms until Q is stationary"

CHART = {chart.name: chart for chart in CHARTS}

Use = tuple[SiteFactor, str, RoleMap]


@frozen
class Block:
    """Parameters that must be solved together, because they meet at a site whose arguments have a joint maximum.

    Attributes:
        names: the parameters.
        kind: of the solver, a row of the table of solvers.
        uses: where each of them is used.
        held: parameters of the same sites that are not solved here, and what happens to them instead: "fixed" or
            "torch". Some of `names` may be among them, as the user asked.
    """

    names: tuple[str, ...]
    kind: str
    uses: Mapping[str, Sequence[Use]] = field(repr=False)
    held: Mapping[str, str]

    @property
    def solved(self) -> tuple[str, ...]:
        """Parameters that are to be solved for."""
        return tuple(name for name in self.names if name not in self.held)

    @property
    def moving(self) -> tuple[str, ...]:
        """Parameters of the same sites that something else moves."""
        return tuple(name for name, how in self.held.items() if how != "fixed")


def uses_of(engine: Engine) -> dict[str, list[Use]]:
    """Return every argument of every recognised site that a parameter enters, by parameter."""
    bank = engine.recognition.bank
    found: dict[str, list[Use]] = {name: [] for name in engine.program.parameters}
    for factor in engine.leaders.values():
        for key, role in factor.roles.items():
            for name in bank.parameters(role, factor.family.roles[key].domain) & found.keys():
                found[name].append((factor, key, role))
    return found


def terms_of(engine: Engine, names: Sequence[str]) -> list[SiteFactor]:
    """Return the sites that some of the parameters enter."""
    return [factor for factor in engine.leaders.values() if not factor.parameters.isdisjoint(names)]


def entering(engine: Engine, factor: SiteFactor) -> set[str]:
    """Return the parameters that enter the arguments of a site."""
    bank, family = engine.recognition.bank, factor.family
    return set[str]().union(*(bank.parameters(role, family.roles[key].domain) for key, role in factor.roles.items()))


def made_up(factors: Sequence[SiteFactor]) -> dict[str, Sums]:
    """Return statistics that are one everywhere, by which a solver is tried out."""
    one, found = torch.ones((), dtype=torch.float64), {}
    for factor in factors:
        cells = (1, *factor.cell_shape, *factor.event_shape)
        parts = tuple(one.expand((*cells, *event)) for event in factor.form.events(factor))
        found[factor.name] = Sums(factor.name, factor.family, parts)
    return found


def segments_of(bank: Bank, factor: SiteFactor, role: str) -> Sequence[Segment]:
    """Return the stretches of the bank that an argument selects from."""
    return bank.touched(factor.roles[role], factor.family.roles[role].domain)


def chart_of(engine: Engine, name: str, uses: Sequence[Use]) -> Chart:
    """Return the function through which a parameter enters."""
    for factor, key, role in uses:
        if role.affine is None:
            for chart in used_charts(role, segments_of(engine.recognition.bank, factor, key), name):
                return CHART[chart]
    return CHART["itself"]


def kind_of(engine: Engine, parameter: Parameter, uses: Sequence[Use]) -> str:
    """Name the kind of solver for one parameter.

    Raises:
        Refused: its uses allow none.
    """
    name = parameter.name
    _check_replays(engine, name)
    if not uses:
        raise Refused("it enters no site" if name not in engine.priors else "only its prior depends on it")
    kinds = {factor.family.solver for factor, _, _ in uses}
    linked = [role.affine for _, _, role in uses if role.affine is not None]
    linear = kinds in ({"normal"}, {"multivariate_normal"})
    if linked and (not linear or any(a.chart.name != "itself" or a.coordinates for a in linked)):
        return "newton"
    if len(kinds) > 1:
        names = ", ".join(sorted({family_name(factor) for factor, _, _ in uses}))
        raise Refused(f"it is used by different kinds of family ({names})")
    (kind,) = kinds
    charts = charts_of(engine, name, uses)
    if len(charts) > 1:
        raise Refused(f"it enters through different functions ({', '.join(sorted(charts))})")
    (chart,) = charts
    _check_image(engine, parameter, uses, chart)
    _check_prior(engine, name, uses, kind, chart)
    return kind


def charts_of(engine: Engine, name: str, uses: Sequence[Use]) -> set[str]:
    """Name the functions through which a parameter enters; a predictor takes it as it is."""
    found = set[str]()
    for factor, key, role in uses:
        segments = segments_of(engine.recognition.bank, factor, key)
        found |= {"itself"} if role.affine is not None else used_charts(role, segments, name)
    return found


def _check_replays(engine: Engine, name: str) -> None:
    """Refuse a parameter that enters what is not compiled."""
    reaches = engine.recognition.reaches
    for site, refusal in engine.recognition.refusals.items():
        if name in refusal.parameters:
            raise Refused(f'site "{site}": {refusal.why}')
    for site in (*engine.replayed, *engine.absorbed):
        if name in reaches.get(site, frozenset()):
            raise Refused(f'site "{site}" is replayed')
    for site, other in engine.priors.items():
        if site != name and other.fn is None and name in reaches.get(site, frozenset()):
            raise Refused(f'it enters the prior of "{site}"')


def _check_image(engine: Engine, parameter: Parameter, uses: Sequence[Use], chart: str) -> None:
    """Refuse a parameter whose constraint does not allow all that an argument may be: its maximum may lie outside."""
    image = CHART[chart].domains.get(domain_of(parameter.constraint))
    through = f" through {chart}" if chart != "itself" else ""
    for factor, key, role in uses:
        wanted = factor.family.roles[key].domain
        bounded = chart == "itself" and key == "loc" and factor.family.solver in LOCATIONS
        bounded = bounded and (factor.family.event_dim == 0 or role.affine is not None)  # vectors are solved together
        if bounded and bounds_of(parameter.constraint) is not None:
            continue
        if image != wanted and (wanted, image) != ("simplex", "unit"):
            what = f"{family_name(factor)}.{key}"
            raise Refused(f"its constraint {parameter.constraint} is not all that {what} may take{through}")
        places = select(role, segments_of(engine.recognition.bank, factor, key), parameter.name)
        if image == "simplex" and any(place.complement for place in places):
            raise Refused("1 - a simplex entry has no closed form")


def _check_prior(engine: Engine, name: str, uses: Sequence[Use], kind: str, chart: str) -> None:
    """Refuse a prior that is not of the form of the likelihood."""
    prior = engine.priors.get(name)
    if prior is None or prior.flat or (kind, chart) in prior.spreads:
        return
    if kind not in prior.solvers or chart != "itself":
        got = prior.kind if prior.fn is not None else f"{prior.kind}, with parameters"
        raise Refused(f"its prior ({got}) is not conjugate to {family_name(uses[0][0])}")
    if kind in LOCATIONS and any(key != "loc" for _, key, _ in uses):
        raise Refused(f"a {prior.kind} prior is not conjugate to a scale")


def family_name(factor: SiteFactor) -> str:
    """Name of the family of a site factor."""
    return type(factor.data.family).__name__


def role_of(uses: Sequence[Use], engine: Engine, name: str) -> tuple[str, tuple[str, ...]]:
    """Return what a parameter is to its sites, and which they are."""
    roles = sorted({f"{family_name(factor)}.{key}" for factor, key, _ in uses})
    found = {n for factor, _, _ in uses for n in engine.members[factor.name]}
    sites = tuple(dict.fromkeys(user_site(n) for n in engine.recognition.runs[0] if n in found))
    if not sites:
        reaches = engine.recognition.reaches.items()
        sites = tuple(dict.fromkeys(user_site(s) for s, reached in reaches if name in reached))
    return " and ".join(roles) or "-", sites


UNDER = {
    "itself": "the argument is",
    "exp": "the log of the argument is",
    "softplus": "the argument is softplus of what is",
    "sigmoid": "the logit of the argument is",
    "softmax": "the logits are",
}


def because_newton(uses: Sequence[Use], block: Sequence[str], name: str) -> str:
    """Say why Newton's method finds a parameter's maximum."""
    for _, _, role in uses:
        if role.affine is not None:
            return f"{UNDER[role.affine.chart.name]} affine in it: Newton on Q"
    other = next(n for n in block if n != name)
    return f'it has a joint maximum with "{other}": Newton on Q'


def because(uses: Sequence[Use], engine: Engine, name: str) -> str:
    """Say why a parameter has a closed form."""
    bank = engine.recognition.bank
    if any(role.affine is not None for _, _, role in uses):
        between = " between its bounds" * (bounds_of(engine.program.parameters[name].constraint) is not None)
        return f"the location is affine in it{_beside(engine, name)}: weighted least squares{between}"
    charts = set[str]().union(*(used_charts(role, segments_of(bank, t, k), name) for t, k, role in uses))
    (chart,) = charts
    known = any(role.coefficient is not None for _, _, role in uses)
    what = "times a known factor" if known else "is a selection of it" if chart == "itself" else f"is {chart} of it"
    text = f"every entry of the argument {what}" if not known else f"the argument is it {what}"
    return text + _beside(engine, name)


def _beside(engine: Engine, name: str) -> str:
    """Say what becomes of the prior of a parameter that has a closed form, if it has one."""
    prior = engine.priors.get(name)
    if prior is None:
        return ""
    if prior.flat:
        return f"; its {prior.kind} prior is constant"
    return f", with its {prior.kind} prior{' in unconstrained coordinates' * prior.unconstrained}"


def in_coordinates(engine: Engine, name: str) -> str:
    """Say of a parameter without a closed form if its prior has the density of unconstrained coordinates."""
    prior = engine.priors.get(name)
    moved = prior is not None and prior.unconstrained and not prior.flat
    return f"; its {prior.kind} prior in unconstrained coordinates" if prior is not None and moved else ""
