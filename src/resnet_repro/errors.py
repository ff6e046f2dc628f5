"""The one exception that a person is meant to read."""


class UserError(Exception):
    """A mistake its user can mend. The text is one line: what was given, the rule, what to do instead."""


def printable(text: object) -> str:
    """The text as any log takes it: what is no character to print, as in the names of some files, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
