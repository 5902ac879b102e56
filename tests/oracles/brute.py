"""Brute force over the programs of the registry, each enumerated once for all tests that ask."""

from functools import cache

from programs.case import Case
from programs.registry import build

from oracles.oracle import Joint, brute_force
from oracles.replay import starting_params


@cache
def case_of(name: str) -> Case:
    """The program that `brute` enumerates: another instance of a module would have other weights of the same names."""
    return build(name)


@cache
def brute(name: str) -> Joint:
    """Every joint assignment of a program, at the parameters that it starts from."""
    case = case_of(name)
    return brute_force(case.model, case.args, params=starting_params(case))
