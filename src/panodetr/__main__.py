"""`python -m panodetr` is the command `panodetr`."""

from panodetr.cli.main import run

if __name__ == "__main__":
    run()
