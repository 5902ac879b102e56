"""The contraction: the schedule, its plan, and the mixtures that need none."""
