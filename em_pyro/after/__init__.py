"""What comes after the fit: a room that is still empty."""
