"""Train plain and residual networks: `python train.py -m depth=20,56,110 arch=plain,resnet_v2`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # this checkout's code, whichever is installed
    try:
        from resnet_repro.cli import train

        train()
    except KeyboardInterrupt:  # before the command itself handles it
        sys.exit(130)
