"""The small, awkward, correct programs of the registry, by what is awkward about them."""
