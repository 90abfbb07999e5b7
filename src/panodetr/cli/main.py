"""The command `panodetr`: arguments in, exit code out.

0: done. 1: something failed, and a line on stderr says what. 2: the arguments cannot be meant.
130: interrupted. Each command's own file imports what it needs only when it runs, so that `--help`
answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING

from panodetr import __version__
from panodetr.cli import convert as convert_command
from panodetr.cli import data as data_command
from panodetr.cli import detect as detect_command
from panodetr.cli import eval as eval_command
from panodetr.cli import export as export_command
from panodetr.cli import models as models_command
from panodetr.cli import recipes as recipes_command
from panodetr.cli import segment as segment_command
from panodetr.cli import train as train_command
from panodetr.cli import verify as verify_command
from panodetr.cli.output import print_error
from panodetr.errors import PanodetrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILURE = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def run() -> None:
    """Be the program: take the arguments from the command line and leave with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code.

    Raises:
        SystemExit: from argparse, after `--help` or `--version` (0) or arguments it refuses (2).
        PanodetrError, OSError: only with `--debug`, for its traceback.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PanodetrError as error:
        if options.debug:
            raise
        print_error(str(error))
        return USAGE if isinstance(error, UsageError) else FAILURE
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # refused before anything was to be read or written: a name too long
        if options.debug:
            raise
        reason = error.strerror or str(error)
        print_error(reason if error.filename is None else f"cannot use {error.filename}: {reason}")
        return FAILURE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panodetr",
        description="Find every object and region in an image, with DETR.",
        epilog="`panodetr COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"panodetr {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    segment_command.add_to(commands)
    detect_command.add_to(commands)
    models_command.add_to(commands)
    eval_command.add_to(commands)
    data_command.add_to(commands)
    train_command.add_to(commands)
    recipes_command.add_to(commands)
    convert_command.add_to(commands)
    export_command.add_to(commands)
    verify_command.add_to(commands)
    return parser
