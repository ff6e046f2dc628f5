"""The exceptions that people read, and one-line texts for errors of libraries and the system."""

import re


class UserError(Exception):
    """A mistake that the user can fix. Its text is one line: the value given, the rule, and what to do instead."""


class NotDone(Exception):
    """A job that did not finish. Its text is one line: the name of the run and the reason."""


class Stopped(Exception):
    """Somebody asked the run to end; its checkpoint is saved."""


def printable(text: object) -> str:
    """Return the text with unprintable characters, such as those in some file names, escaped: any log takes it."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_words(error: BaseException, *, at_most: int = 100) -> str:
    """Return an error's message to quote in one of our lines: without colours, on one line, cut between words."""
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", getattr(error, "strerror", None) or str(error))
    text = " ".join(printable(word) for word in text.split()) or type(error).__name__
    return text if len(text) <= at_most else text[:at_most].rpartition(" ")[0] + " ..."


def failure(error: OSError) -> str:
    """Return a line such as `FILE: No such file or directory`."""
    reason = first_words(error, at_most=300)
    return reason if error.filename is None else f"{error.filename}: {reason}"
