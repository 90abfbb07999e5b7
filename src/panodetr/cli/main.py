"""The command `panodetr`: arguments in, exit code out.

0: done. 1: something failed, and a line on stderr says what. 2: the arguments are invalid.
130: interrupted. Each command imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import time
import warnings
from errno import EFBIG, ENOSPC
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Toml, Yaml

from panodetr import __version__
from panodetr.cli.data import check, convert_data, show
from panodetr.cli.eval import evaluate
from panodetr.cli.images import detect, segment
from panodetr.cli.models import convert, export, models
from panodetr.cli.output import QUIET, print_error, print_note
from panodetr.cli.serve import serve
from panodetr.cli.train import recipes, train
from panodetr.errors import ImageWarning, PanodetrError, UsageError, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

FAILURE = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE

ONE_PRESS = 1.0
"""Seconds within which another SIGINT is the same Ctrl-C, and that the second one may take."""

INSTALL = {"torch": "torch", "yaml": "pyyaml", "PIL": "pillow"}
"""Packages by the module that is missing, where the names differ or an install can leave it out."""

PREDICT = Group("Predict and measure", sort_key=1)
TRAIN = Group("Data and training", sort_key=2)
MODELS = Group("Models", sort_key=3)
EVERYWHERE = Group("Everywhere", sort_key=9)


def run() -> None:
    """Be the program: take the arguments from the command line and leave with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be text
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if sys.platform != "win32":
        # Python's own handlers run when the read is over, which is never.
        ctypes.CDLL(None).signal(signal.SIGBUS, _cut_off)
        signals, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
            signal.signal(signal.SIGINT, _interrupt)
        Thread(target=_end_at_second_press, args=(signals,), daemon=True).start()
    code = main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while Python ends
    if code == INTERRUPTED:  # a thread may be in the network, which Python's own exit would disturb
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _cut_off(_: int) -> None:
    """End where a file that libraries map into memory was cut off; the system sends SIGBUS then."""
    os.write(2, b"panodetr: error: a file was cut off while it was read; try it again\n")
    os._exit(FAILURE)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; within an import a moment later.

    Libraries in C that are interrupted while they begin crash, or say that something is missing.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_at_second_press(signals: int) -> None:
    """End soon after the second Ctrl-C, where a long computation keeps Python from hearing it."""
    first = None
    while number := os.read(signals, 1):
        if number[0] != signal.SIGINT:
            continue
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first > ONE_PRESS:
            time.sleep(ONE_PRESS)
            os.write(2, b"panodetr: error: interrupted\n")
            os._exit(INTERRUPTED)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Print a warning about an image as a line, and others as Python does."""
    if issubclass(category, ImageWarning):
        print_note(f"panodetr: warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code.

    Raises:
        PanodetrError, OSError, ImportError, MemoryError: only with `--debug`, for the traceback.
    """
    try:
        # A dash alone would be read as an option.
        known = ["/dev/stdin" if argument == "-" else argument for argument in arguments]
        code: int | None = build_app().meta(known)
        sys.stdout.flush()
    except CycloptsError as error:
        print_error(str(error))
        return USAGE
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader of our output has left (rich makes a SystemExit of it). Python would complain
        # once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (PanodetrError, ImportError, OSError, MemoryError) as error:
        message = _explain(error)
        if message is None or "--debug" in arguments:
            raise
        print_error(message)
        return USAGE if isinstance(error, UsageError) else FAILURE
    return code or 0


def _explain(error: Exception) -> str | None:
    """Say what happened in a line; None where it is our own mistake."""
    if isinstance(error, MemoryError):  # refused by the system, as for a file of terabytes
        return "this takes more memory than there is; are all files as large as they should be?"
    if isinstance(error, ImportError):
        missing = (error.name or "").split(".")[0]
        if not missing or missing == "panodetr":
            return None
        package = INSTALL.get(missing, missing)
        return f"this command needs {package}, which is not installed; pip install {package}"
    if isinstance(error, OSError):  # refused before anything was read or written: a name too long
        reason = reason_of(error)
        if error.filename is None:
            is_full = error.errno in (ENOSPC, EFBIG)
            return f"cannot write standard output: {reason}" if is_full else reason
        return f"cannot use {error.filename}: {reason}"
    return str(error)


def build_app() -> App:
    """Give the command line, with all commands."""
    app = App(
        name="panodetr",
        help="Detection and panoptic segmentation with DETR and EoMT.",
        help_format="markdown",
        version=f"panodetr {__version__}",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        # The default of a flag is not worth saying.
        default_parameter=Parameter(
            negative=(), show_default=lambda default: None if default is False else default
        ),
    )
    app.meta.suppress_keyboard_interrupt = False
    app.meta.group_parameters = EVERYWHERE
    app.command(segment, group=PREDICT)
    app.command(detect, group=PREDICT)
    app.command(evaluate, name="eval", group=PREDICT)
    data = App(name="data", help="Check, show or convert a data set.", group=TRAIN)
    data.command(check)
    data.command(convert_data, name="convert")
    data.command(show)
    app.command(data)
    app.command(train, group=TRAIN)
    app.command(recipes, group=TRAIN)
    app.command(serve, group=PREDICT)
    app.command(models, group=MODELS)
    app.command(convert, group=MODELS)
    app.command(export, group=MODELS)
    app.register_install_completion_command(group=EVERYWHERE)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[Path | None, Parameter(parse=True)] = None,
        quiet: Annotated[bool, Parameter(name=["--quiet", "-q"])] = False,
        debug: bool = False,
    ) -> int | None:
        """Detection and panoptic segmentation with DETR and EoMT.

        Args:
            tokens: the command and its arguments.
            config: A TOML or YAML file with options: a table per command, keys as the options
                without dashes. Options on the command line win.
            quiet: Print errors and JSON only.
            debug: Show the traceback of an error.
        """
        del debug  # main looks for it, so that it counts for faulty arguments too
        QUIET.set(quiet)
        if config is not None:
            app.config = [_config(config)]
        return app(tokens)

    return app


def _config(path: Path) -> Toml | Yaml:
    if not path.is_file():
        raise UsageError(f"--config {path} is not a file; expected TOML or YAML")
    kind = {".toml": Toml, ".yaml": Yaml, ".yml": Yaml}.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"--config {path} ends in {path.suffix!r}; expected .toml or .yaml")
    if not path.stat().st_size:  # as devices say, which never end
        raise UsageError(f"--config {path} is empty")
    try:
        options = kind(path, must_exist=True, search_parents=False)
        _ = options.config
    except Exception as error:  # each parser has errors of its own
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    return options
