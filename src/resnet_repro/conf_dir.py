"""Where the configs are."""

import sys
from pathlib import Path


def config_dir() -> Path:
    """Return conf/ beside the script that was started; if there is none, as in a test, conf/ of this checkout."""
    beside = Path(sys.argv[0]).resolve().parent / "conf"
    return beside if beside.is_dir() else Path(__file__).parents[2] / "conf"
