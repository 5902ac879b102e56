"""The factors of single sites."""
