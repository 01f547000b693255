"""From groups of episodes to one optimiser step: advantages, samples, micro-batches, loss."""
