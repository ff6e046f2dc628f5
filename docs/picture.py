"""Draw the rooms of the package in docs/architecture.md from the contracts in pyproject.toml. `make readme`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by docs/picture.py -->\n", "<!-- until here -->\n"

Contract = Mapping[str, Any]


def contracts() -> dict[str, Contract]:
    """Return the contracts of import-linter in pyproject.toml by their ids."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def picture(rooms: Contract, no_torch: Contract) -> str:
    """Return a Mermaid diagram with a row for each layer of `rooms`, the highest first.

    Rooms that `no_torch` covers whole are marked.
    """
    (package,) = rooms["containers"]
    lines = ["flowchart TD"]
    for number, layer in enumerate(rooms["layers"]):
        lines += [f'    subgraph layer{number}[" "]', "        direction TB"]
        for room in re.split(r"\s*[|:]\s*", layer):
            mark = "<br/><i>no torch</i>" if f"{package}.{room}" in no_torch["source_modules"] else ""
            lines.append(f'        {room}["{room}{mark}"]')
        lines.append("    end")
    lines += [f"    layer{number} --> layer{number + 1}" for number in range(len(rooms["layers"]) - 1)]
    return "\n".join(["```mermaid", *lines, "```", ""])


def updated(page: str) -> str:
    """Return the text of docs/architecture.md with its picture drawn anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    found = contracts()
    return before + begin + picture(found["rooms"], found["no-torch"]) + end + after


def main() -> None:
    """Rewrite the picture in docs/architecture.md."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
