"""Standard output and error that never raise: unencodable characters become ASCII, a closed pipe discards the rest."""

import codecs
import io
import os
import sys
import unicodedata
from typing import Any, TextIO

ASCII = {
    **{
        "✓": "+",
        "✗": "x",
        "…": "~",
        "–": "-",
        "—": "-",
        "−": "-",
        "⁻": "-",
        "±": "+-",
        "×": "x",
        "·": "*",
        "√": "sqrt",
        "π": "pi",
    },
    **dict.fromkeys("⎡⎢⎣⎤⎥⎦│┃", "|"),
    **dict.fromkeys("─━═╸╺", "-"),
    **{"σ": "sigma", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->", "↑": "^", "°": "deg", "○": "o"},
    **dict.fromkeys("“”", '"'),
    "ß": "ss",
    **{sign: f"^{n}" for n, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}
"""Replacements for the signs in our tables and sentences. Any other letter loses its accent."""


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for text that an encoder cannot encode. Bytes of file names that are no text are escaped."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(sign: str) -> str:
    if sign in ASCII:
        return ASCII[sign]
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or sign.encode("ascii", "backslashreplace").decode()


codecs.register_error("resnet_repro.ascii", in_ascii)


class _Lenient(io.FileIO):
    """A file descriptor that discards everything after its first failure: the reader is gone, or the disk is full."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def lenient(stream: TextIO | None, number: int) -> TextIO:
    """Return a stream like a standard stream, but one that never raises.

    Args:
        stream: the standard stream; None if the shell has closed it.
        number: the stream's file descriptor.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(number, "wb", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="resnet_repro.ascii",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def make_lenient() -> None:
    """Replace standard output and error by streams that never raise. A test's own streams stay as they are."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the shell: the next file that is opened would get this number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = lenient(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = lenient(sys.stderr, 2)
