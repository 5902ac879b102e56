"""Ways that lead higher from where steps have settled."""
