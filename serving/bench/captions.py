"""What a picture and a page say of a measurement in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 34
"""Characters of a label in a picture."""


def captions(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, what was measured, and how."""
    cases, machine = document["cases"], document["machine"]
    names = list(dict.fromkeys(case.get("model", case["target"]) for case in cases))
    title = f"Latency and throughput: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    first = cases[0]
    parts = [first["how"]] if len({case["how"] for case in cases}) == 1 else [f"{len(cases)} cases"]
    parts += [
        first[name]
        for name in ("precision", "engine")
        if len({case.get(name) for case in cases}) == 1 and name in first
    ]
    parts.append(f"{machine['cpu']}, {machine['cores']} cores")
    kinds = {point["load"]["kind"] for point in document["points"]}
    said = {
        "closed": "N at once (closed loop): latency from first byte sent to last received",
        "open": "N/s (open loop, Poisson): latency from the moment a request was due",
    }
    unstable = sum(not point["stable"] for point in document["points"])
    foot = [*(said[kind] for kind in sorted(kinds)), f"stable: {document['method']['stable']}"]
    foot[-1] += f" ({unstable} of {len(document['points'])} points were not)" if unstable else " (all points were)"
    return (
        title,
        "  ·  ".join(parts),
        f"wander bench {document['wander']}, {document['created'][:10]}.  " + ".  ".join(foot) + ".",
    )


def short_labels(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Labels without the words that all cases have in common, and no longer than a picture has room for."""
    words = [case["label"].removeprefix("http://").replace("batch ", "batch\0").split() for case in cases]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    found = {}
    for case, own in zip(cases, words, strict=True):
        short = " ".join(word.replace("\0", " ") for word in own if word not in common) or case["label"]
        found[case["label"]] = short if len(short) <= LONGEST else f"..{short[2 - LONGEST :]}"
    return found
