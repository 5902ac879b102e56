"""Iterate the step, and say how it ended."""
