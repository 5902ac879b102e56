"""Predictors through a link: Newton's method."""
