"""A fit on its way, in a file: what it was of, what is done, and where the rest goes on."""
