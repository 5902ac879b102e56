"""Forward-backward along a chain: a torch scan, or loops compiled by numba."""

from .compiled import recursion

__all__ = ["recursion"]
