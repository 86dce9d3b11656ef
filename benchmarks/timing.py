"""Time by turns, and what a measured ratio says about its target."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


def by_turns(calls: dict[str, Callable[[], object]], repeats: int, seconds: float = 0.5) -> dict[str, list[float]]:
    """Seconds a call of every contender, one value a repeat: the median of calls that take ``seconds`` together.

    The contenders take turns call by call, so that a slow moment of the machine meets all that still have to be called;
    the slow ones are done after fewer turns.
    """
    for call in calls.values():
        call()
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        turns = list(calls)
        while turns:
            for name in turns:
                taken[name].append(timeit.timeit(calls[name], number=1))
            turns = [name for name in reversed(turns) if sum(taken[name]) < seconds]  # there, then back
        for name, values in taken.items():
            measured[name].append(median(values))
    return measured


@dataclass(frozen=True)
class Line:
    """A line of the table: one value a repeat, of which the median counts; none where it could not be measured."""

    what: str
    at: str
    values: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    says: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is met, which what was not measured has not; None without a target."""
        if self.at_least is None and self.at_most is None:
            return None
        if not self.values:
            return False
        above = self.at_least is None or median(self.values) >= self.at_least
        return above and (self.at_most is None or median(self.values) <= self.at_most)


def ratios(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]
