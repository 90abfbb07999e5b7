"""Data sets damaged at random: a record, a note or a named fault, never a traceback or a hang."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from panodetr.data.check import check_split
from panodetr.data.dataset import Source
from panodetr.errors import PanodetrError

from .test_formats import WRITERS, Picture

SOAK = int(os.environ.get("PANODETR_SOAK", "0"))

DAMAGES = 200 if not SOAK else 2000

SECONDS = 20
"""A data set of two images is read in less, however it is damaged."""

MADE = (
    Picture("image 0", (20, 30), (("no", (1, 1, 5, 4)), ("zebra", (17, 12, 6, 5)))),
    Picture("image 1", (24, 18), (("zebra", (2, 2, 4, 4)),)),
)

INSERTED = (
    b"null", b"-1", b"1e999", b"99999999999999999999999", b'"\\ud800"', b"true", b"[]", b"{}",
    b"nan", b"\xff", b"\x00", b"2001-02-30", b"!!python/object:os.system", b"*a", b"&a [*a]",
    b"<!DOCTYPE a>", b"&b;", b'"../../../etc/passwd"', b"\xef\xbb\xbf", b"0.5", b'""', b"yes",
)  # fmt: skip


def damage(path: Path, rng: random.Random) -> None:
    """Change a file: some bytes, a cut, a number or word, or all of it."""
    contents = bytearray(path.read_bytes())
    place = rng.randrange(len(contents) + 1)
    kind = rng.randrange(7)
    if kind == 0 and contents:
        contents[place % len(contents)] = rng.randrange(256)
    elif kind == 1:
        del contents[place:]
    elif kind == 2:
        contents[place:place] = rng.choice(INSERTED)
    elif kind in (3, 4):
        words = [i for i, byte in enumerate(contents) if chr(byte).isalnum()]
        start = rng.choice(words or [0])
        end = next((i for i in range(start, len(contents)) if not chr(contents[i]).isalnum()), None)
        contents[start:end] = rng.choice(INSERTED)
    elif kind == 5:
        contents += bytes(contents)
    else:
        path.unlink()
        if rng.randrange(2):
            path.mkdir()
        return
    path.write_bytes(contents)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_data_is_named_and_ends(tmp_path: Path, name: str) -> None:
    WRITERS[name][0](tmp_path / "whole", MADE)
    rng = random.Random(name)
    for number in range(DAMAGES // len(WRITERS) + 1):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in rng.sample(files, rng.choice((1, 1, 2))):
            damage(path, rng)
        began, refused = time.monotonic(), ""
        try:
            source = Source(folder)
            format, splits = source.splits(None)
            for split in splits:
                found = check_split(source, split, format, lambda done, total: None)
                lost = sum(len(p.objects) for p in MADE) - found.objects.total()
                if name != "mask files":  # one file less is one object less
                    assert lost <= 0 or found.findings, f"{number}: {lost} objects lost in silence"
                for finding in found.findings:
                    assert finding.message.isprintable()
        except PanodetrError as error:
            refused = str(error)
        assert "\n" not in refused
        assert time.monotonic() - began < SECONDS
        shutil.rmtree(folder)
