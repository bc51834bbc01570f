"""The funnel: what came in, what was dropped and why, what came out, read from the manifests."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emsmine import languages
from emsmine.display import printable
from emsmine.errors import CorruptOutputError, InputError, LanguageError
from emsmine.pipelines.runner.verify import OF_RESULTS, Verification, format_problem, verify
from emsmine.pipelines.settings import STEPS
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.suspicious import first_of_listing, is_listing, suspicious_counts
from emsmine.pipelines.store.tasks import FileRef

logger = logging.getLogger(__name__)

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

    def as_dict(self) -> dict[str, Any]:
        """Return the row as `emsmine report --json` prints it."""
        return {**vars(self), "adds_up": self.adds_up}


_REUSED = ("reused_vectors", "encoded_vectors", "reused_lists", "searched_lists")


def funnel(store: Store) -> list[FunnelRow]:
    """Return the funnel of all finished steps, one row per step and language or pair.

    Raises:
        InputError: nothing has been run in the directory.
    """
    rows: list[FunnelRow] = []
    for name, told in STEPS.items():
        stage, step = name.split(".")
        if told.label and store.has_step(stage, step):
            rows += [row for row in _rows_of_step(store, stage, step) if row.reused or not told.if_reused]
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
                samples[group] = _samples(store, output.ref)
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


def _samples(store: Store, ref: FileRef) -> list[dict[str, str]]:
    """Return the first suspicious pairs of a listing; none, with a warning, if it is not the file that was written."""
    try:
        return first_of_listing(store.verified(ref), _NUM_SAMPLES)
    except CorruptOutputError as error:
        logger.warning("report: its samples are left out: %s", printable(str(error)))
        return []


def verified_funnel(store: Store) -> tuple[list[FunnelRow], list[str]]:
    """Return the funnel, and why its rows are not all accounted for, after verifying every file.

    Raises:
        InputError: nothing has been run in the directory.
    """
    rows = funnel(store)
    return rows, doubts(store, verify(store.root, os.cpu_count() or 1, StatCache(store.root)))


def doubts(store: Store, found: Verification) -> list[str]:
    """Say why the rows of a run directory are not all accounted for; nothing for a complete run whose files are whole.

    Args:
        store: the run directory.
        found: what `verify` found there.
    """
    lines = [format_problem(problem) for problem in found.problems if problem.kind in OF_RESULTS]
    for name, done in found.unfinished.items():
        lines.append(f"unfinished {name}: {f'{done} tasks are done' if done else 'it has not run'}")
    return [printable(line) for line in [*lines, *([f"to continue: emsmine run -o {store.root}"] if lines else [])]]


def format_funnel(rows: list[FunnelRow], doubts: Sequence[str] = ()) -> str:
    """Lay the funnel out as text.

    Args:
        rows: of `funnel`.
        doubts: of `doubts`; they take the place of the assurance that every row is accounted for.

    Reasons stand under the rows that they were dropped from, most frequent first; then, in the column of rows that
    came out, how many of those are suspicious or taken over from an earlier run. Samples of suspicious pairs stand at
    the end.
    """
    lines = [f"{'step':<42}{'':<10}{'in':>12}{'out':>12}{'dropped':>12}"]
    for row in rows:
        label = f"{row.step.split('.')[0]:<8}{STEPS[row.step].label}"
        group = _short_name(row.group)
        dropped = sum(row.dropped.values())
        lines.append(f"{label:<42}{group:<10}{row.rows_in:>12,}{row.rows_out:>12,}{dropped:>12,}")
        by_count = sorted(row.dropped.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"{'':<12}{reason:<50}{count:>26,}" for reason, count in by_count]
        lines += [f"{'':<12}{'suspicious: ' + reason:<40}{count:>24,}" for reason, count in row.suspicious.items()]
        lines += [f"{'':<12}{name.replace('_', ' '):<40}{count:>24,}" for name, count in row.reused.items()]
    good = all(row.adds_up for row in rows)
    if not good:
        lines.append("ROWS ARE MISSING: this is a bug, please report it")
    elif doubts:
        lines += ["NOT COMPLETE: the rows above add up, but", *(f"  {line}" for line in doubts)]
    else:
        lines.append("every row is accounted for")
    for row in rows:
        if row.samples:
            lines.append(f"suspicious, best margins of {_short_name(row.group)} (margin, cosine, reason, texts):")
            lines += [f"  {_one_line(sample)}" for sample in row.samples]
    return "\n".join(map(printable, lines))


def _short_name(group: str) -> str:
    try:
        return "-".join(sorted(languages.short(code) for code in group.split("-"))) if group else ""
    except LanguageError:  # a partition of a manifest that is not ours
        return group


def _one_line(sample: dict[str, str]) -> str:
    texts = [
        text if len(text) <= _SAMPLE_WIDTH else text[: _SAMPLE_WIDTH - 1] + "…"
        for text in (sample["source"], sample["target"])
    ]
    return f"{sample['margin']}  {sample['cosine']}  {sample['reason']}  {texts[0]} ||| {texts[1]}"
