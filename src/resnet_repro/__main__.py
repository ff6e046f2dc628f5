"""`python -m resnet_repro train | evaluate | report | pack | export | keep ...`: every command of this package."""

import sys

from resnet_repro import cli

COMMANDS = {each.__name__: each for each in (cli.train, cli.evaluate, cli.report, cli.pack, cli.export, cli.keep)}


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        mistake = f"{name} is no command" if name else "no command was given"
        sys.exit(f"error: {mistake}; use python -m resnet_repro {' | '.join(COMMANDS)}")
    del sys.argv[1]
    COMMANDS[name]()


if __name__ == "__main__":
    main()
