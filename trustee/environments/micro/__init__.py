"""The true micro-world: tools that really work and an oracle, for measuring the built-in model."""
