"""Many images, shared out in parts: the same rows from one process or from a cluster."""
