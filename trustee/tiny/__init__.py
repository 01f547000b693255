"""The built-in tiny model: its micro-world, its lessons and its making."""
