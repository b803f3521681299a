"""Everything raydvae raises on purpose.

    RaydvaeError            exit code 1
    ├── ConfigError         2   a wrong option, preset or combination
    ├── DataError           3   the data set is not what it should be
    └── StorageError        4   a path, bucket or disk refused

    Interrupted           130   stopped on request; the same command goes on

`Interrupted` is a `BaseException` like `KeyboardInterrupt`: it may come anywhere, and no ``except Exception`` that is
meant for a broken image or a lost connection may take it for one.

A message says what is wrong, which value, what is allowed and what to do next. All of them survive pickling, so
they cross process borders unchanged.
"""

from __future__ import annotations


class RaydvaeError(Exception):
    """Base of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigError(RaydvaeError):
    """Wrong usage or configuration."""

    exit_code = 2


class DataError(RaydvaeError):
    """Input data that cannot be used."""

    exit_code = 3


class StorageError(RaydvaeError):
    """Storage that cannot be read or written."""

    exit_code = 4


class Interrupted(BaseException):
    """Stopped by the user; running the same command again goes on."""

    exit_code = 130


def shown(text: str) -> str:
    r"""Return ``text`` from outside as one line that is safe to print: control characters, line breaks, signs that turn
    the direction of writing and bytes that are not UTF-8 as escapes (``\n``, ``\x1b``, ``\u202e``, ``\xe9``).
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in text)


def safe_lines(text: str) -> str:
    """Return ``text`` as `shown` does, but with its line breaks and tabs: the last guard before a terminal."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else _escape(sign) for sign in text)


def _escape(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # how Python keeps a byte of a file's name that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()
