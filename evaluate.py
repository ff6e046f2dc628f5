"""Test finished runs as the papers do: `python evaluate.py run=outputs/imagenet/resnet_v1-50-s0 test=10crop`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # this checkout's code, whichever is installed
    try:
        from resnet_repro.cli import evaluate

        evaluate()
    except KeyboardInterrupt:  # before the command itself handles it
        sys.exit(130)
