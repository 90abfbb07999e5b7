"""Random damage to files, the same for the same seed."""

from __future__ import annotations

import random

TOKENS = (
    b"null", b"-1", b"0", b"0.5", b"1e400", b"1e18", b"99999999999999999999999", b"NaN", b"nan",
    b"true", b"yes", b'""', b'"\\ud800"', b"[]", b"{}", b"[" * 1000, b"\xff", b"\x00",
    b"\xef\xbb\xbf", b"2001-02-30", b"!!python/object:os.system", b"*a", b"&a [*a]", b"&b;",
    b"<!DOCTYPE a>", b'"../../../etc/passwd"',
)  # fmt: skip


def damage(contents: bytes, chance: random.Random) -> bytes:
    """Damage a file in one to three places: bits, bytes, or a whole number or word."""
    data = bytearray(contents)
    for _ in range(chance.randint(1, 3)):
        if not data:
            break
        # Half of the damage hits the start, where formats describe themselves.
        place = chance.randrange(min(len(data), 200) if chance.random() < 0.5 else len(data))
        end = place + chance.randint(1, 16)
        kind = chance.choice(("flip", "cut", "drop", "repeat", "noise", "token", "word", "word"))
        if kind == "flip":
            data[place] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place:end]
        elif kind == "repeat":
            data[place:place] = chance.choice((data[place:end], data))
        elif kind == "noise":
            data[place:end] = chance.randbytes(end - place)
        elif kind == "token":
            data[place:place] = chance.choice(TOKENS)
        else:
            part = data[place : place + 2000]
            start = next((i for i, byte in enumerate(part) if chr(byte).isalnum()), 0)
            end = next((i for i in range(start, len(part)) if not chr(part[i]).isalnum()), start)
            data[place + start : place + end] = chance.choice(TOKENS)
    return bytes(data)
