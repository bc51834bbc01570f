"""The funnel: what came in, what was dropped and why, what came out, read from the manifests."""

from collections import Counter
from dataclasses import dataclass, field

from emsmine import languages
from emsmine.errors import InputError
from emsmine.pipelines.stages import STAGE_NAMES, load_stage
from emsmine.pipelines.store import Store


@dataclass(frozen=True)
class FunnelRow:
    """One line of the funnel.

    Args:
        step: `stage.step`.
        group: language or pair, or "" for all.
        rows_in: rows taken in.
        rows_out: rows passed on.
        dropped: counts by reason.
    """

    step: str
    group: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        """True if every row in is out or dropped for a reason."""
        return self.rows_in == self.rows_out + sum(self.dropped.values())


# Steps whose rows are the same things as those before them, seen from another side; they drop nothing.
_HIDDEN = {
    ("dedup", "sign"),
    ("dedup", "cluster"),
    ("index", "index"),
    ("index", "build"),
    ("search", "sample"),
    ("search", "tile"),
    ("search", "merge"),
}
_LABELS = {
    ("ingest", "read"): "records → documents",
    ("dedup", "apply"): "→ distinct documents",
    ("langid", "split"): "sentences → in wanted languages",
    ("langid", "distinct"): "→ distinct sentences",
    ("encode", "encode"): "→ vectors",
    ("search", "audit"): "sampled neighbours → found",
    ("select", "select"): "candidates → chosen pairs",
    ("filter", "filter"): "→ kept pairs",
    ("export", "export"): "→ exported pairs",
}


def funnel(store: Store) -> list[FunnelRow]:
    """Return the funnel of all finished steps, one row per step and language or pair.

    Raises:
        InputError: nothing has been run in the directory.
    """
    rows: list[FunnelRow] = []
    for name in STAGE_NAMES:
        for step in load_stage(name).steps:
            if (name, step.name) not in _HIDDEN and store.has_step(name, step.name):
                rows += _rows_of_step(store, name, step.name)
    if not rows:
        raise InputError(f"report: {store.root} holds no finished stage; run: emsmine run INPUT… --output DIR")
    return rows


def _rows_of_step(store: Store, stage: str, step: str) -> list[FunnelRow]:
    groups: dict[str, list[Counter[str]]] = {}
    for manifest in store.manifests(stage, step):
        first = manifest.spec.partition.split("/")[0]
        group = first if "_" in first else ""
        counts = groups.setdefault(group, [Counter(), Counter()])
        counts[0].update({"in": manifest.rows_in, "out": manifest.rows_out})
        counts[1].update(manifest.dropped)
    return [
        FunnelRow(f"{stage}.{step}", group, counts["in"], counts["out"], dict(sorted(dropped.items())))
        for group, (counts, dropped) in sorted(groups.items())
    ]


def format_funnel(rows: list[FunnelRow]) -> str:
    """Lay the funnel out as text; the reasons stand under the rows that they were dropped from, most frequent first."""
    lines = [f"{'step':<42}{'':<10}{'in':>12}{'out':>12}{'dropped':>12}"]
    for row in rows:
        stage, step = row.step.split(".")
        label = f"{stage:<8}{_LABELS.get((stage, step), step)}"
        group = "-".join(sorted(languages.short(code) for code in row.group.split("-"))) if row.group else ""
        dropped = sum(row.dropped.values())
        lines.append(f"{label:<42}{group:<10}{row.rows_in:>12,}{row.rows_out:>12,}{dropped:>12,}")
        by_count = sorted(row.dropped.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"{'':<12}{reason:<50}{count:>26,}" for reason, count in by_count]
    good = all(row.adds_up for row in rows)
    lines.append("every row is accounted for" if good else "ROWS ARE MISSING: this is a bug, please report it")
    return "\n".join(lines)
