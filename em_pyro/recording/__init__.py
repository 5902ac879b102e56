"""Sites that no family recognises, noted once as tensor operations and repeated without the model."""
