"""Forward-backward along a chain: a torch scan, or loops compiled by numba."""
