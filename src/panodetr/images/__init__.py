"""Photos: read, resized, tiled and batched, without torch."""
