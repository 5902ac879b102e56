"""Exponential families with closed-form M-steps, and the table to which anyone may add one."""

from . import (
    circular,
    counts,
    extremes,
    heavy_tailed,
    known,
    multivariate_normal,
    normal,
    overdispersed,
    positive,
    rates,
    rowwise,
)
from .base import Family, Role, family_for, family_of, register
from .rowwise import RowFamily

__all__ = [
    "Family",
    "Role",
    "RowFamily",
    "circular",
    "counts",
    "extremes",
    "family_for",
    "family_of",
    "heavy_tailed",
    "known",
    "multivariate_normal",
    "normal",
    "overdispersed",
    "positive",
    "rates",
    "register",
    "rowwise",
]
