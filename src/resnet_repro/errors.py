"""The one exception that a person is meant to read, and one line for what the system refuses."""

import re


class UserError(Exception):
    """A mistake its user can mend. The text is one line: what was given, the rule, what to do instead."""


class NotDone(Exception):
    """A job that was run and is not done. The text is one line: its name and the reason."""


def printable(text: object) -> str:
    """The text as any log takes it: what is no character to print, as in the names of some files, is escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_words(error: BaseException, *, at_most: int = 100) -> str:
    """What a library says of an error, for a place in a line of ours: one line, no colours, cut between words."""
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", getattr(error, "strerror", None) or str(error))
    text = " ".join(printable(word) for word in text.split()) or type(error).__name__
    return text if len(text) <= at_most else text[:at_most].rpartition(" ")[0] + " ..."


def failure(error: OSError) -> str:
    """`FILE: No such file or directory`."""
    what = first_words(error, at_most=300)
    return what if error.filename is None else f"{error.filename}: {what}"
