"""What `python -m em_pyro` does: read a table, fit a model of the zoo to it, say and draw what came out."""
