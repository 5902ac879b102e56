"""Where fits start: drawn, handed in or seeded; many at once."""
