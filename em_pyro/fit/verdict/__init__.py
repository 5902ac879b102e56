"""What is seen around the values at which a fit ended."""
