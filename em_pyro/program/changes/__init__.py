"""Whether the model, and what it sees, are what they were."""
