"""Arguments that are affine in parameters, through a link: found, kept as predictors, and solved by Newton."""
