"""Trackers of other programs, which get a run's figures: trackio, wandb, tensorboard."""
