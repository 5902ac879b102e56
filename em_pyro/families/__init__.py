"""Exponential families with closed-form M-steps, and the table to which anyone may add one."""

from . import counts, multivariate_normal, normal, rates
from .base import Family, Role, family_for, family_of, register

__all__ = ["Family", "Role", "counts", "family_for", "family_of", "multivariate_normal", "normal", "rates", "register"]
