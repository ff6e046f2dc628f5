"""`resnet-repro COMMAND ...` and `python -m resnet_repro COMMAND ...`: every command of this package."""

import os
import sys
from collections.abc import Callable

try:
    from resnet_repro import cli
except KeyboardInterrupt:  # before a command handles it
    sys.exit(130)

PROGRAM = "resnet-repro"
HYDRA: dict[str, Callable[[], None]] = {each.__name__: each for each in (cli.train, cli.evaluate, cli.report)}
COMMANDS = HYDRA | {each.__name__: each for each in (cli.pack, cli.export, cli.keep)}


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("-sc", "--shell-completion"):
        _complete(rest)
    elif name in ("-h", "--help"):
        print(_help())
    elif name not in COMMANDS:
        mistake = f"{name} is no command" if name else "no command was given"
        sys.exit(f"error: {mistake}; use {PROGRAM} {' | '.join(COMMANDS)}")
    else:
        sys.argv = [f"{PROGRAM} {name}", *rest]
        COMMANDS[name]()


def _help() -> str:
    about = [f"  {name:10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([f"usage: {PROGRAM} COMMAND ...", "", *about, "", f"{PROGRAM} COMMAND --help: its options"])


def _complete(arguments: list[str]) -> None:
    """Complete the name of a command; have Hydra complete what follows, and install its completion in a shell.

    The shell asks with `-sc query=bash`, and gives the line so far in COMP_LINE. Hydra knows of no subcommands, so the
    subcommand is taken out of that line.
    """
    is_query = arguments[0].startswith("query=") if arguments else False
    program, *words = os.environ.get("COMP_LINE", PROGRAM).split(" ")
    if not is_query:
        cli.train()
    elif len(words) < 2:
        print(*COMMANDS, sep="\n")
    elif words[0] in HYDRA:
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
        HYDRA[words[0]]()


if __name__ == "__main__":
    main()
