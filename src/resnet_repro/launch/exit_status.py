"""Exit statuses of a run's processes, and of the command that started them.

From UNWRITABLE on the numbers are those of sysexits.h (CANTCREAT, IOERR, TEMPFAIL) and of shells after a Ctrl-C.
"""

DONE = 0
FAILED = 1
UNWRITABLE = 73
"""The run's folder cannot be written."""
FULL = 74
"""The disk is full."""
IN_USE = 75
"""Another process holds the run's folder."""
STOPPED = 130
"""A signal asked the run to stop, and its state is saved."""
