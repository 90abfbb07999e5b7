"""Images: read, resized, tiled and batched, without torch."""
