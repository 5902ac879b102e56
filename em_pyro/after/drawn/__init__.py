"""Data that a fit draws."""
