"""The same work by this package and by transformers, timed side by side, each in its own process.

`rows` says what is measured and which floors must hold, `run` measures it, `report` shows it.
"""
