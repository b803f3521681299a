"""One seed in the configuration drives everything: every random stream is named, and its seed derived from the name."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called ``names`` of the run seeded with ``seed``.

    Streams of different names are independent, and a stream does not depend on who draws it, or in which order:
    that is what lets a run give the same bytes on any number of workers and after being killed.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
