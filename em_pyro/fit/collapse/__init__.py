"""Densities that draw together onto a few values, by their scale or without one."""
