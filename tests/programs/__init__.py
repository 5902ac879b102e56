"""What the tests are run over: small Pyro programs, the zoo, and their data."""
