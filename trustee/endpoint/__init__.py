"""The endpoint of `trustee serve`: a run's model for other programs, from the training's engine."""
