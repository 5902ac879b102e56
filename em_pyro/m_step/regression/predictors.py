"""Every argument of a site as a predictor over the coordinates of its parameters: a selection has one slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...families.charts import Chart, domain_of
from ...reading.bank import RoleMap
from ...reading.predictor import Affine, Piece, log_probabilities
from ...records.frozen import frozen
from ..pooling import Refused
from ..uses import CHART, family_name, segments_of

LINK = {"positive": "exp", "real": "itself", "unit": "sigmoid", "simplex": "softmax"}
"""Through which function a selection is affine, by the argument's domain."""

POWER = {"itself": 1.0, "exp": 1.0, "sqrt": 0.5, "square": 2.0, "reciprocal": -1.0, "rsqrt": -0.5}
"""What multiplies the logarithm of a positive parameter, or one that is a logarithm, in that of an argument."""

PAIRS = (("unit", "itself"), ("real", "sigmoid"))  # domain and chart of a probability beside one minus itself
COORDINATE = {
    "unit": (("unit", "itself"), ("real", "sigmoid")),
    "real": (("real", "itself"), ("positive", "log")),
    "simplex": (("real", "softmax"), *PAIRS),
}
"""By the argument's domain, the domain of a parameter and the chart through which its coordinate is the predictor."""

Entry = tuple[str, int]


@frozen
class Argument:
    """One argument of a site, by its predictor over the coordinates of the block."""

    role: str
    domain: str
    row: bool  # whether it has an entry for each category or coordinate of the value
    affine: Affine = field(repr=False)

    @cached_property
    def predictors(self) -> list[Affine]:
        """One for each entry of a row; else the one."""
        return self.affine.by_row if self.row else [self.affine]

    def bound(self, eta: Tensor) -> dict[str, Tensor]:
        """The argument as the family expects it (logarithms for probabilities)."""
        if self.domain in ("unit", "simplex"):
            logs = log_probabilities(self.affine.chart, eta)
            names = (self.role, f"{self.role}_complement")
            return {name: log for name, log in zip(names, logs, strict=True) if log is not None}
        return {self.role: self.affine.chart.forward(eta)}


def argument_of(engine: Engine, factor: SiteFactor, key: str, role: RoleMap, place: Mapping[Entry, int]) -> Argument:
    """One argument of a site that parameters enter, over the coordinates that `place` numbers."""
    own = factor.family.roles[key]
    if role.affine is not None:
        at = torch.tensor([place[entry] for entry in role.affine.entries])
        affine = role.affine.moved(at)
    else:
        affine = selection(engine, factor, key, role, place)
    device = factor.data.value.tensor.device
    return Argument(key, own.domain, own.event_dim > 0, affine.changed(lambda part, _: part.to(device)))


def selection(engine: Engine, factor: SiteFactor, key: str, role: RoleMap, place: Mapping[Entry, int]) -> Affine:
    """A selection as a predictor with one slot."""
    domain, event = factor.family.roles[key].domain, factor.family.roles[key].event_dim
    where = f"{family_name(factor)}.{key}, with which it has a joint maximum,"
    if domain not in LINK or event > 1:
        raise Refused(f"{where} has no predictor")
    index = torch.full(role.index.shape, -1)
    value = torch.zeros(role.index.shape, dtype=torch.float64)
    soft, paired = 0, False
    for segment in segments_of(engine.recognition.bank, factor, key):
        here = segment.holds(role.index)
        if not bool(here.any()):
            continue
        chart, own = segment.chart.name, domain_of(engine.program.parameters[segment.parameter].constraint)
        multiplier = _multiplier(domain, own, chart)
        if multiplier is None:
            raise Refused(f"{where} is {chart} of a parameter")
        paired = paired or (domain == "simplex" and (own, chart) in PAIRS)
        soft += int(here.sum()) if chart == "softplus" else 0
        spots = torch.tensor([place[segment.parameter, i] for i in range(segment.size)])
        index = torch.where(here, spots[(role.index - segment.offset).clamp(0, segment.size - 1)], index)
        value = torch.where(here, -multiplier if segment.complement else multiplier, value)
    if soft and (soft < role.index.numel() or role.coefficient is not None):
        raise Refused(f"{where} is partly softplus of a parameter")
    index = _pairs(index, value, where) if paired else index
    link = CHART["softplus" if soft else LINK[domain]]
    value, offset = _scaled(role, domain, link, index, value)
    return _thin(Affine((), offset, (Piece(index.unsqueeze(-1), value.unsqueeze(-1)),), link), event)


def _scaled(role: RoleMap, domain: str, link: Chart, index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Multipliers and offsets, with the known factors and constants of an argument in them."""
    offset = torch.zeros(role.index.shape, dtype=torch.float64)
    if role.coefficient is not None and domain == "real":
        value = value * role.coefficient
    elif role.coefficient is not None:
        offset = torch.where(index < 0, 0.0, role.coefficient.double().log())
    if role.constant is not None:
        offset = torch.where(index < 0, link.inverse(role.constant.double()), offset)
    return value, offset


def _multiplier(domain: str, own: str, chart: str) -> float | None:
    """What multiplies the coordinate of a parameter in the predictor of an argument; None where it is no multiple."""
    if domain == "positive":
        return 1.0 if chart == "softplus" else POWER.get(chart) if own in ("positive", "real") else None
    return 1.0 if (own, chart) in COORDINATE[domain] else None


def _pairs(index: Tensor, value: Tensor, where: str) -> Tensor:
    """Rows `(1 - p, p)` of two categories: softmax of nothing and the logit of `p`."""
    whole = index.shape[-1] == 2 and bool((index[..., 0] == index[..., 1]).all() & (value.sum(-1) == 0).all())
    if not whole:
        raise Refused(f"{where} is partly a logistic function of a parameter")
    return torch.where(value < 0, -1, index)


def _thin(affine: Affine, event: int) -> Affine:
    """Keep one of what is the same along a dimension; a row stays whole."""

    def thin(part: Tensor, slots: int) -> Tensor:
        for d in range(part.dim() - slots - event):
            if bool((part == part.narrow(d, 0, 1)).all()):
                part = part.narrow(d, 0, 1)
        return part

    return affine.changed(thin)
