"""Models as files for other runtimes, checked before they are kept."""
