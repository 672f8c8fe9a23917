"""Narrowing of graphs that have a metric only together, as towers whose vectors are compared.

Each holds by itself before; here more of them stays in fp32, what costs most first, until they hold together. If
nothing does, what lost least is left to the gate: the rows that decide are few, and one of them may be all the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from export.narrowing import BROKEN, Outcome, Search, Together, fewest


def hold_together(
    searches: Mapping[str, Search],
    outcomes: Mapping[str, Outcome],
    lost: Callable[[], float | None],
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, Outcome]:
    """The outcomes with which all graphs hold together; those graphs are what lies in their places then.

    Args:
        searches: of every graph, by its name. outcomes: with which each holds by itself; the graphs are so now.
        lost: how much the metric that lost most has lost, in parts of what it may, of the graphs as they lie there;
            None if nothing can be said, for want of labels.
    """
    step("all graphs together")
    if (first := lost()) is None or first <= 1:
        return dict(outcomes)
    for search in searches.values():
        search.measure(step)
    rest = sorted(
        ((name, unit) for name, search in searches.items() for unit in search.units if unit not in outcomes[name].kept),
        key=lambda part: (-searches[part[0]].costs[part[1]], part),
    )

    def kept(name: str, more: int) -> list[str]:
        return outcomes[name].kept + [unit for graph, unit in rest[:more] if graph == name]

    def trial(more: int) -> Together:
        alone = [search.trial(kept(name, more)).holds for name, search in searches.items()]  # every graph is written
        loss = lost() if all(alone) else BROKEN
        assert loss is not None
        return Together(sum(len(kept(name, more)) for name in searches), loss, holds=loss <= 1)

    tried = [Together(sum(len(one.kept) for one in outcomes.values()), first, holds=False)]
    tried += fewest(len(rest), trial, step)
    if not tried[-1].holds:
        best = min(tried, key=lambda one: (one.loss, one.kept))
        tried.append(trial(best.kept - tried[0].kept))
    more = tried[-1].kept - tried[0].kept
    return {
        name: replace(outcome, kept=kept(name, more), costs=searches[name].costs, together=tried)
        for name, outcome in outcomes.items()
    }
