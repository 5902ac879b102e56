"""How sure a fit is: standard errors, covariances, intervals, and what the data do not determine."""
