"""Independent ways to what the library computes, and what tests compare with."""
