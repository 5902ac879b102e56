"""Designs of predictors: their columns, and the replays that tell them."""
