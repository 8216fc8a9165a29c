"""What a benchmark finds: named figures of a contender, each with one value per round."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

OURS, FLOOR, PEER = "nexus-tasks", "floor", "peer"
REQUESTS = "requests"  # the six calls alone
AS_SHIPPED = "as shipped"


@dataclass(frozen=True)
class Figure:
    """One figure over all rounds. `part`, `name` and `contender` together identify it."""

    part: str
    name: str
    contender: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return min(self.values), max(self.values)

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for the file of recorded figures."""
        low, high = self.spread
        return {
            "part": self.part,
            "name": self.name,
            "contender": self.contender,
            "unit": self.unit,
            "median": rounded(self.median),
            "low": rounded(low),
            "high": rounded(high),
            "values": [rounded(value) for value in self.values],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Figure":
        """What `as_json` wrote."""
        return cls(
            document["part"],
            document["name"],
            document["contender"],
            document["unit"],
            tuple(float(value) for value in document["values"]),
        )


class Collected:
    """The values of one part as the rounds bring them."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, name: str, contender: str, unit: str, value: float) -> None:
        """Note the value of one round."""
        self._values.setdefault((name, contender, unit), []).append(value)

    def ratio(self, name: str, above: tuple[str, str], below: tuple[str, str]) -> None:
        """Note, round by round, one figure over another; each named by (name, contender); missing ones are left out."""
        pairs = zip(self._of(above), self._of(below), strict=False)
        ratios = [one / other for one, other in pairs if other]
        if ratios:
            self._values[(name, f"{above[1]} / {below[1]}", "×")] = ratios

    def figures(self) -> list[Figure]:
        """All of them, in the order in which they were first noted."""
        return [
            Figure(self.part, name, contender, unit, tuple(values))
            for (name, contender, unit), values in self._values.items()
        ]

    def _of(self, figure: tuple[str, str]) -> list[float]:
        found = [values for (name, contender, _), values in self._values.items() if (name, contender) == figure]
        return found[0] if found else []


def rounded(value: float) -> float:
    """To four significant digits, which is more than any of these figures deserves."""
    return float(f"{value:.4g}")


def in_turns(rounds: int, contenders: Sequence[Callable[[], None]], say: Callable[[str], None], what: str) -> None:
    """Have each contender run once in every round; who begins changes from round to round."""
    for number in range(rounds):
        say(f"{what}: round {number + 1} of {rounds}")
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            contender()


def of_part(figures: Iterable[Figure], part: str) -> list[Figure]:
    """Those of one part."""
    return [figure for figure in figures if figure.part == part]
