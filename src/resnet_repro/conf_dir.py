"""Where the configs are."""

import sys
from pathlib import Path


def config_dir() -> Path:
    """conf/ beside the script that was started; where none is there, as in a test, the one of this checkout."""
    beside = Path(sys.argv[0]).resolve().parent / "conf"
    return beside if beside.is_dir() else Path(__file__).parents[2] / "conf"
