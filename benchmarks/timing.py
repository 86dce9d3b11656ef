"""Time by turns, and what a measured ratio says about its target."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


def by_turns(calls: dict[str, Callable[[], object]], repeats: int, seconds: float = 0.5) -> dict[str, list[float]]:
    """Seconds a call of every contender, measured one after the other in every repeat, so that a slow minute of the
    machine meets them all. A measurement repeats its call until it takes about ``seconds``."""
    number = {}
    for name, call in calls.items():
        call()
        number[name] = max(1, math.ceil(seconds / timeit.timeit(call, number=1)))
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in calls if repeat % 2 == 0 else reversed(calls):
            measured[name].append(timeit.timeit(calls[name], number=number[name]) / number[name])
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
