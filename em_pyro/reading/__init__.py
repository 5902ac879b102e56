"""Where every argument of every site comes from."""
