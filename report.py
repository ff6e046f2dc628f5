"""Tables, figures and the papers' claims from all finished runs: `python report.py`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # this checkout's code, whichever is installed
    try:
        from resnet_repro.cli import report

        report()
    except KeyboardInterrupt:  # before the command itself handles it
        sys.exit(130)
