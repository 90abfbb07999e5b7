"""Data sets on disk, checked when they are opened, and what the training loop asks of them."""
