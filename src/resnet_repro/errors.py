"""The one exception that a person is meant to read."""


class UserError(Exception):
    """A mistake its user can mend. The text is one line: what was given, the rule, what to do instead."""
