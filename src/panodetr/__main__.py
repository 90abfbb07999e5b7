"""The program: `panodetr`, or `python -m panodetr`."""

import os


def run() -> None:
    """Be the program; Ctrl-C while it is still being imported ends it without a traceback."""
    try:
        from panodetr.cli.main import run
    except KeyboardInterrupt:
        os._exit(130)  # as `cli.main` does
    run()


if __name__ == "__main__":
    run()
