"""What kind of processor this machine has."""

import platform
from contextlib import suppress
from pathlib import Path

VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
BRANDS = ("epyc", "ryzen", "threadripper", "xeon", "core", "apple", "neoverse")
INTEL = {85: "skylake", 106: "icelake", 143: "sapphirerapids", 207: "emeraldrapids", 173: "graniterapids"}
"""Microarchitectures by the model number in Intel's family 6."""
FASTEST = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Instructions, the fastest for training first."""


def cpu_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux says of the first core; empty on another system."""
    lines: list[str] = []
    with suppress(OSError):
        lines = path.read_text().split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def brand(facts: dict[str, str]) -> str:
    """Return the processor's name as it is sold."""
    return facts.get("model name") or platform.processor() or platform.machine()


def family(facts: dict[str, str]) -> str:
    """Return a name for processors of this kind, such as amd-epyc-zen4-avx512_bf16."""
    vendor = VENDORS.get(facts.get("vendor_id", ""), platform.machine())
    kind = next((word for word in BRANDS if word in brand(facts).lower()), "")
    instructions = facts.get("flags", "").split()
    fastest = next((name for name in FASTEST if name in instructions), "")
    return "-".join(filter(None, [vendor, kind, _microarchitecture(facts), fastest])).lower()


def _microarchitecture(facts: dict[str, str]) -> str:
    number, model = (int(facts.get(name, 0)) for name in ("cpu family", "model"))
    if facts.get("vendor_id") == "AuthenticAMD":
        is_zen4 = number == 25 and (0x10 <= model < 0x20 or 0x60 <= model < 0x80 or model >= 0xA0)
        return "zen4" if is_zen4 else {23: "zen2", 25: "zen3", 26: "zen5"}.get(number, f"family{number}")
    return INTEL.get(model, f"model{model}") if number == 6 else ""
