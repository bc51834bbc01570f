"""Suspicious pairs in files: counted by every stage that they pass, listed by `export`, shown by `report`.

What makes a pair suspicious is decided in `emsmine.mining.selection.suspicion`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from emsmine.pipelines.store.context import TaskContext

COLUMN = "suspicious"
"""Column of the reasons, joined by commas; "" for most pairs."""

_COUNTER = "suspicious."
_LISTING = ".suspicious.tsv"


@dataclass(frozen=True)
class ScoredPair:
    """A pair, with the reasons for which it is suspicious, joined by commas; "" for most pairs."""

    score: float
    margin: float
    cosine: float
    suspicious: str
    source: str
    target: str

    def listing_line(self) -> str:
        """Return its line of a listing, as `first_of_listing` reads it."""
        return f"{self.margin:.6f}\t{self.cosine:.6f}\t{self.suspicious}\t{self.source}\t{self.target}"


def count_suspicious(task: TaskContext, labels: Iterable[str]) -> None:
    """Count the pairs by reason, in the manifest of the task."""
    for name, number in counters_of(labels).items():
        task.counter(name, number)


def counters_of(labels: Iterable[str]) -> dict[str, int]:
    """Return the number of pairs per counter, `suspicious.<reason>`; a pair with two reasons counts for both."""
    reasons = Counter(reason for label in labels if label for reason in label.split(","))
    return {_COUNTER + reason: number for reason, number in sorted(reasons.items())}


def suspicious_counts(counters: Mapping[str, int | float]) -> dict[str, int]:
    """Return what `count_suspicious` counted, by reason, from the counters of a manifest."""
    return {name.removeprefix(_COUNTER): int(number) for name, number in counters.items() if name.startswith(_COUNTER)}


def listing_path(left: str, right: str) -> str:
    """Name the listing of an exported pair."""
    return f"export/{left}-{right}{_LISTING}"


def is_listing(path: str) -> bool:
    """Tell whether an output of `export` is a listing of suspicious pairs."""
    return path.endswith(_LISTING)


def first_of_listing(path: Path, number: int) -> list[dict[str, str]]:
    """Return the first lines of a listing by column. Verify the file first (`Store.verified`)."""
    names = ("margin", "cosine", "reason", "source", "target")
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        lines = [line.rstrip("\n").split("\t") for line in islice(file, number)]
    return [dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names)]
