"""Steps longer than those of EM, taken in working coordinates."""
