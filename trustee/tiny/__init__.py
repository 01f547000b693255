"""The built-in tiny model: its lessons, its teacher and its training."""
