"""Exact EM on plain Pyro models, timed side by side with the libraries that hand-code one model.

`python -m benchmarks` runs the table, `--quick` in about a minute; `python -m benchmarks.device` runs on a GPU.
"""
