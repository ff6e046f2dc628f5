"""Standard output and error that fail nobody: signs they cannot take become ASCII, a closed pipe takes the rest."""

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
"""What stands for the signs that our tables and sentences have. Any other letter loses its accent."""


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What an encoder writes for text that it cannot encode; a byte of a file name that is no text is escaped."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(sign: str) -> str:
    if sign in ASCII:
        return ASCII[sign]
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or sign.encode("ascii", "backslashreplace").decode()


codecs.register_error("resnet_repro.ascii", in_ascii)


class _Lenient(io.FileIO):
    """A file descriptor that leads nowhere from the first failure on: the reader is gone, the disk is full."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def lenient(stream: TextIO | None, number: int) -> TextIO:
    """A stream like the standard one of that number, which is None where a shell has closed it; it never raises."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(number, "wb", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="resnet_repro.ascii",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def make_lenient() -> None:
    """Have nothing that this process prints end it: no sweep, no report. A test's own streams stay."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the shell: else the next file that is opened would get its number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = lenient(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = lenient(sys.stderr, 2)
