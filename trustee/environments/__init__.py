"""The worlds of the package, and what they are made of."""
