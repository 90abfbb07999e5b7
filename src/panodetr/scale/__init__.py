"""Large runs: images are split into parts, which one process or a Ray cluster turns into rows."""
