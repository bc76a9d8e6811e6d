"""Training: the trainer, update strategies, checkpoints and evaluation."""
