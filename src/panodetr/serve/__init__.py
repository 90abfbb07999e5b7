"""The service of `panodetr serve`: one front process, and model processes behind it."""
