"""The training: data, losses, the loop, several processes."""
