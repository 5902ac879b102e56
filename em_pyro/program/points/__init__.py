"""Runs of a program at many points: where its parameters are, and how several runs are made at once."""
