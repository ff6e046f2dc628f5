"""The one exception that a person is meant to read, and one line for what the system refuses."""


class UserError(Exception):
    """A mistake its user can mend. The text is one line: what was given, the rule, what to do instead."""


def failure(error: OSError) -> str:
    """`FILE: No such file or directory`."""
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return what if error.filename is None else f"{error.filename}: {what}"
