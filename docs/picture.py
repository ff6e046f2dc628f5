"""Draw the rooms of the package as docs/rooms.svg, from the contracts in pyproject.toml. `make readme`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
WIDTH, HEIGHT, GAP = 150, 44, 26
"""Of a room, and the space between two rows, in pixels."""

Contract = Mapping[str, Any]


def contracts() -> dict[str, Contract]:
    """Return the contracts of import-linter in pyproject.toml by their ids."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def picture(rooms: Contract, no_torch: Contract) -> str:
    """Return an SVG with a row for each layer of `rooms`, the highest first, and an arrow from each row to the next.

    Rooms that `no_torch` covers whole are grey.
    """
    (package,) = rooms["containers"]
    rows = [re.split(r"\s*[|:]\s*", layer) for layer in rooms["layers"]]
    width, height = max(map(len, rows)) * (WIDTH + 10) + 10, len(rows) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="15" text-anchor="middle">',
        "<title>Rooms of the package: a room imports from the rows below its own</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, row in enumerate(rows):
        top = GAP // 2 + number * (HEIGHT + GAP)
        left = (width - len(row) * (WIDTH + 10) + 10) / 2
        for place, room in enumerate(row):
            x, is_grey = left + place * (WIDTH + 10), f"{package}.{room}" in no_torch["source_modules"]
            lines += [
                f'<rect x="{x:g}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6" stroke="#445"'
                f' fill="{"#e3e6ea" if is_grey else "#ffffff"}"/>',
                f'<text x="{x + WIDTH / 2:g}" y="{top + 27}" fill="#112">{room}</text>',
            ]
        if number:
            lines.append(
                f'<path d="M{width / 2:g} {top - GAP + 3}v{GAP - 8}m-5 -6l5 6l5 -6" fill="none" stroke="#445"/>'
            )
    return "\n".join([*lines, "</svg>", ""])


def drawn() -> str:
    """Return the picture of this package's rooms."""
    found = contracts()
    return picture(found["rooms"], found["no-torch"])


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
