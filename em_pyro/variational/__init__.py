"""Laws in place of points: variational Bayes on the plan of EM."""
