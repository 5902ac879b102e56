"""The three tolerances of the whole suite."""

IDENTITY = 1e-10
"""Two expressions of the same number (relative to `1 + |number|`)."""

SOLVERS = 1e-6
"""Two different solvers of the same problem (relative to `1 + |number|`)."""


def printed(text: str) -> float:
    """Half a unit in the last digit of a published number, as printed: `printed("26.018") == 0.0005`."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 0.5 * 10.0 ** (-decimals + int(exponent or 0))
