"""Run the user's model, and name what it did."""
