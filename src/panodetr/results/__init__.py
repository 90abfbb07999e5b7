"""What the model found: decoded, merged, joined, drawn and written, without torch."""
