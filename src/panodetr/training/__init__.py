"""Training: matching, losses, recipes and the loop."""
