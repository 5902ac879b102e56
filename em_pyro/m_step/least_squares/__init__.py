"""Means and scales: weighted least squares."""
