"""Fits beside fits: how many components, how well rows are predicted that were left out, by refitting."""
