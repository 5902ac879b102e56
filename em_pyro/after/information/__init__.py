"""How much the data tell of the parameters."""
