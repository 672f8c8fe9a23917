"""What the kernel says of the processor. Two of one name may differ in what they can do."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def read_cpuinfo(text: str) -> tuple[str, set[str]]:
    """The name and the flags of the first processor; "unknown" and none where the kernel does not tell."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", "unknown"), set((fields.get("flags") or fields.get("Features") or "").split())
