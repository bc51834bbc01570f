"""The funnel: what came in, what was dropped and why, what came out, read from the manifests."""

from collections import Counter
from dataclasses import dataclass, field

from emsmine import languages
from emsmine.errors import InputError
from emsmine.pipelines.stages import STAGE_NAMES, load_stage
from emsmine.pipelines.store import Store
from emsmine.pipelines.suspicious import first_of_listing, is_listing, suspicious_counts

_NUM_SAMPLES, _SAMPLE_WIDTH = 3, 60


@dataclass(frozen=True)
class FunnelRow:
    """One line of the funnel.

    Args:
        step: `stage.step`.
        group: language or pair, or "" for all.
        rows_in: rows taken in.
        rows_out: rows passed on.
        dropped: counts by reason.
        suspicious: rows among `rows_out` that are marked, by reason; a row may have two.
        reused: where an earlier run was reused, rows taken over from it and rows made anew: `reused_vectors` and
            `encoded_vectors`, `reused_lists` and `searched_lists`.
        samples: for exports, the suspicious pairs of the highest margin: margin, cosine, reason, source, target.
    """

    step: str
    group: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)
    suspicious: dict[str, int] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    reused: dict[str, int] = field(default_factory=dict)

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
    ("search", "reuse"),
    ("search", "tile"),
}
_HIDDEN_UNLESS_REUSED = {("search", "merge")}
_REUSED = ("reused_vectors", "encoded_vectors", "reused_lists", "searched_lists")
_LABELS = {
    ("ingest", "read"): "records → documents",
    ("dedup", "apply"): "→ distinct documents",
    ("langid", "split"): "sentences → in wanted languages",
    ("langid", "distinct"): "→ distinct sentences",
    ("encode", "encode"): "→ vectors",
    ("search", "merge"): "→ lists of neighbours",
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
                found = _rows_of_step(store, name, step.name)
                rows += [row for row in found if row.reused or (name, step.name) not in _HIDDEN_UNLESS_REUSED]
    if not rows:
        raise InputError(f"report: {store.root} holds no finished stage; run: emsmine run INPUT… --output DIR")
    return rows


def _rows_of_step(store: Store, stage: str, step: str) -> list[FunnelRow]:
    groups: dict[str, list[Counter[str]]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for manifest in store.manifests(stage, step):
        first = manifest.spec.partition.split("/")[0]
        group = first if "_" in first else ""
        counts = groups.setdefault(group, [Counter(), Counter(), Counter(), Counter()])
        counts[0].update({"in": manifest.rows_in, "out": manifest.rows_out})
        counts[1].update(manifest.dropped)
        counts[2].update(suspicious_counts(manifest.counters))
        counts[3].update({name: int(manifest.counters[name]) for name in _REUSED if name in manifest.counters})
        for output in manifest.outputs:
            if is_listing(output.path):
                samples[group] = first_of_listing(store.root / output.path, _NUM_SAMPLES)
    return [
        FunnelRow(
            f"{stage}.{step}",
            group,
            counts["in"],
            counts["out"],
            dict(sorted(dropped.items())),
            dict(sorted(suspicious.items())),
            samples.get(group, []),
            dict(reused),
        )
        for group, (counts, dropped, suspicious, reused) in sorted(groups.items())
    ]


def format_funnel(rows: list[FunnelRow]) -> str:
    """Lay the funnel out as text.

    Reasons stand under the rows that they were dropped from, most frequent first; then, in the column of rows that
    came out, how many of those are suspicious or taken over from an earlier run. Samples of suspicious pairs stand at
    the end.
    """
    lines = [f"{'step':<42}{'':<10}{'in':>12}{'out':>12}{'dropped':>12}"]
    for row in rows:
        stage, step = row.step.split(".")
        label = f"{stage:<8}{_LABELS.get((stage, step), step)}"
        group = _short_name(row.group)
        dropped = sum(row.dropped.values())
        lines.append(f"{label:<42}{group:<10}{row.rows_in:>12,}{row.rows_out:>12,}{dropped:>12,}")
        by_count = sorted(row.dropped.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"{'':<12}{reason:<50}{count:>26,}" for reason, count in by_count]
        lines += [f"{'':<12}{'suspicious: ' + reason:<40}{count:>24,}" for reason, count in row.suspicious.items()]
        lines += [f"{'':<12}{name.replace('_', ' '):<40}{count:>24,}" for name, count in row.reused.items()]
    good = all(row.adds_up for row in rows)
    lines.append("every row is accounted for" if good else "ROWS ARE MISSING: this is a bug, please report it")
    for row in rows:
        if row.samples:
            lines.append(f"suspicious, best margins of {_short_name(row.group)} (margin, cosine, reason, texts):")
            lines += [f"  {_one_line(sample)}" for sample in row.samples]
    return "\n".join(lines)


def _short_name(group: str) -> str:
    return "-".join(sorted(languages.short(code) for code in group.split("-"))) if group else ""


def _one_line(sample: dict[str, str]) -> str:
    texts = [
        text if len(text) <= _SAMPLE_WIDTH else text[: _SAMPLE_WIDTH - 1] + "…"
        for text in (sample["source"], sample["target"])
    ]
    return f"{sample['margin']}  {sample['cosine']}  {sample['reason']}  {texts[0]} ||| {texts[1]}"
