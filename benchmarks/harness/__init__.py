"""The same work by this package and by transformers, in fresh processes: time, memory, outputs."""
