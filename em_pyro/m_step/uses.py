"""Where a parameter is used, and what that says of its maximum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..e_step.engine import Engine
from ..e_step.sites.site_factor import Term
from ..families.charts import CHARTS, Chart, domain_of
from ..program.program import Parameter
from ..program.unroll import user_site
from ..reading.bank import Bank, RoleMap
from .pooling import Refused, select, used_charts

CHART = {chart.name: chart for chart in CHARTS}

Use = tuple[Term, str, RoleMap]


def uses_of(engine: Engine, name: str) -> list[Use]:
    """Every argument of every recognised site that the parameter enters."""
    bank, found = engine.recognition.bank, []
    for term in engine.leaders.values():
        for key, role in term.roles.items():
            if name in bank.parameters(role, term.family.roles[key].domain):
                found.append((term, key, role))
    return found


def segments_of(bank: Bank, term: Term, role: str) -> Sequence[Any]:
    """Stretches of the bank that an argument selects from."""
    return bank.of(term.family.roles[role].domain)


def chart_of(engine: Engine, name: str, uses: Sequence[Use]) -> Chart:
    """The function through which a parameter enters."""
    for term, key, role in uses:
        if role.affine is None:
            for chart in used_charts(role, segments_of(engine.recognition.bank, term, key), name):
                return CHART[chart]
    return CHART["itself"]


def kind_of(engine: Engine, parameter: Parameter, uses: Sequence[Use]) -> str:
    """The kind of solver for one parameter, if its uses allow one."""
    name, bank = parameter.name, engine.recognition.bank
    for site, refusal in engine.recognition.refusals.items():
        if name in refusal.parameters:
            raise Refused(f'site "{site}": {refusal.why}')
    for site in (*engine.replayed, *engine.inside):
        if name in engine.recognition.reaches.get(site, frozenset()):
            raise Refused(f'site "{site}" is replayed')
    for site, other in engine.priors.items():
        if site != name and other.fn is None and name in engine.recognition.reaches.get(site, frozenset()):
            raise Refused(f'it enters the prior of "{site}"')
    if not uses:
        raise Refused("it enters no site" if name not in engine.priors else "only its prior depends on it")
    kinds = {term.family.solver for term, _, _ in uses}
    linked = [role.affine for _, _, role in uses if role.affine is not None]
    linear = kinds in ({"normal"}, {"multivariate_normal"})
    if linked and (not linear or any(a.chart.name != "itself" or a.coordinates for a in linked)):
        return "newton"
    if len(kinds) > 1:
        names = ", ".join(sorted({family_name(term) for term, _, _ in uses}))
        raise Refused(f"it is used by different kinds of family ({names})")
    (kind,) = kinds
    domain = domain_of(parameter.constraint)
    charts = set()
    for term, key, role in uses:
        if role.affine is not None:
            charts.add("itself")
            continue
        charts |= used_charts(role, segments_of(bank, term, key), name)
    if len(charts) > 1:
        raise Refused(f"it enters through different functions ({', '.join(sorted(charts))})")
    (chart,) = charts
    image = CHART[chart].domains.get(domain)
    for term, key, role in uses:
        wanted = term.family.roles[key].domain
        whole = image == wanted or (wanted == "simplex" and image == "unit")
        if not whole:
            raise Refused(
                f"its constraint {parameter.constraint} is not all that {family_name(term)}.{key} may take"
                + (f" through {chart}" if chart != "itself" else "")
            )
        if image == "simplex" and any(s.complement for s in select(role, segments_of(bank, term, key), name)):
            raise Refused("1 - a simplex entry has no closed form")
    prior = engine.priors.get(name)
    if prior is not None and (prior.solver != kind or chart != "itself"):
        got = type(prior.fn).__name__ if prior.fn is not None else "a prior with parameters"
        raise Refused(f"its prior ({got}) is not conjugate to {family_name(uses[0][0])}")
    if prior is not None and kind == "normal" and any(key == "scale" for _, key, _ in uses):
        raise Refused("a Normal prior is not conjugate to a scale")
    return kind


def family_name(term: Term) -> str:
    """Name of the family of a term."""
    return type(term.family).__name__


def role_of(uses: Sequence[Use], engine: Engine, name: str) -> tuple[str, tuple[str, ...]]:
    """What a parameter is to its sites, and which they are."""
    roles = sorted({f"{family_name(term)}.{key}" for term, key, _ in uses})
    sites = tuple(dict.fromkeys(user_site(n) for term, _, _ in uses for n in engine.members[term.name]))
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
        return "the location is affine in it: weighted least squares"
    charts = set[str]().union(*(used_charts(role, segments_of(bank, t, k), name) for t, k, role in uses))
    (chart,) = charts
    known = any(role.coefficient is not None for _, _, role in uses)
    what = "times a known factor" if known else "is a selection of it" if chart == "itself" else f"is {chart} of it"
    text = f"every entry of the argument {what}" if not known else f"the argument is it {what}"
    return text + (f", with its {type(engine.priors[name].fn).__name__} prior" if name in engine.priors else "")
