"""The real micro-world: working tools and an oracle, for evaluating the built-in model."""
