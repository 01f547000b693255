"""Running code written by a model, isolated so that it cannot do harm."""
