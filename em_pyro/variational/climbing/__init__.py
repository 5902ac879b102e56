"""Steps of variational Bayes, and where they end."""
