"""What is asked of a fit: the answer itself, and what comes after it."""
