"""The trainer: settings, losses, loop, checkpoints, several processes."""
