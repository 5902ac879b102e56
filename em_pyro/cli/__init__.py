"""What `em-pyro` (or `python -m em_pyro`) does: read a table, fit a model of the zoo, say and draw what came out."""
