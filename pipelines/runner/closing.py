"""What a run says at its end: where the corpus lies, what to do next, and which stage left nothing."""

from collections.abc import Sequence
from pathlib import Path

from emsmine import languages
from emsmine.pipelines.rescoring import filled_in
from emsmine.pipelines.runner.report import FunnelRow
from emsmine.pipelines.settings import STAGE_NAMES, STEPS, Settings


def closing_lines(
    rows: Sequence[FunnelRow], settings: Settings, output: Path, last: str
) -> tuple[list[str], list[str]]:
    """Say where the results are and what comes next.

    Args:
        rows: the funnel.
        settings: of the run.
        output: run directory.
        last: the last stage that ran.

    Returns:
        Lines for a user, and warnings: pairs of which nothing is left, with the stage that dropped everything.
    """
    following = "".join(STAGE_NAMES[STAGE_NAMES.index(last) + 1 :][:1])
    if following:
        return [f"{last} is done in {output}; next: emsmine {following} -o {output}"], []
    exported = {row.group: row.rows_out for row in rows if row.step == "export.export"}
    lines = []
    for pair in settings.pairs:
        number = exported.get("-".join(pair), 0)
        if number:
            name = languages.pair_name(*pair, canonical=False)
            lines.append(f"{name}: {number:,} pairs in {_main_file(output, name, settings.export.formats)}")
    kept = [pair for pair in settings.pairs if exported.get("-".join(pair), 0)]
    if kept:
        lines.append(
            f"all formats ({', '.join(settings.export.formats)}) are in {output / 'export'}. Funnel again: "
            f"emsmine report {output}; another threshold: the same command with --threshold X --redo select"
        )
    return lines, [_why_nothing(rows, settings, pair, output) for pair in settings.pairs if pair not in kept]


def _main_file(output: Path, name: str, formats: Sequence[str]) -> Path:
    endings = {"tsv": f"{name}.tsv", "parquet": f"{name}.parquet", "jsonl": f"{name}.jsonl"}
    moses = f"corpus.{name}.*"
    return output / "export" / next((endings[kind] for kind in ("tsv", "parquet", "jsonl") if kind in formats), moses)


def _why_nothing(rows: Sequence[FunnelRow], settings: Settings, pair: tuple[str, str], output: Path) -> str:
    """Name the first step after which nothing of a pair was left, its commonest reason, and what may help."""
    name = languages.pair_name(*pair, canonical=False)
    by = {"together": ("",), "by language": pair, "by pair": ("-".join(pair),)}
    groups = [(step, group) for step, told in STEPS.items() for group in by.get(told.rows, ())]
    found = {(row.step, row.group): row for row in rows}
    for place, (step, group) in enumerate(groups):
        row = found.get((step, group))
        # A step without tasks, as rescoring that is off, has no row, and those behind it have.
        was_passed = row is None and any(other == group and (later, group) in found for later, other in groups[place:])
        if was_passed or (row is not None and row.rows_out):
            continue
        what = f" in {languages.name(group)}" if group in pair else ""
        dropped = sorted((row.dropped if row else {}).items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in dropped[:3])
        came = f" of {row.rows_in:,} rows" if row else ""
        return (
            f"{name}: no pair. {step.split('.')[0]} left nothing{what}{came}"
            f"{f' ({reasons})' if reasons else ''}; {_advice(step, settings, output)}"
        )
    return f"{name}: no pair; see emsmine report {output}"


def _advice(step: str, settings: Settings, output: Path) -> str:
    stage = step.split(".")[0]
    rejects = f"samples of what was dropped are in {output / 'rejects'}"
    select = settings.select
    threshold = filled_in(settings).select.threshold
    return {
        "ingest": f"check --format, --text-field and whether the input is text at all; {rejects}",
        "langid": f"check --pairs, and whether the crawl holds that language (--min-lid-score is "
        f"{settings.langid.min_lid_score:g}); {rejects}",
        "select": f"lower --threshold (now {threshold:g}) or --cosine-floor (now {select.cosine_floor:g}), with "
        "--redo select",
        "rescore": f"lower --cosine-floor (now {select.cosine_floor:g}), with --redo rescore",
        "filter": f"see which rule refused them, and leave it out with --rules-off or loosen it, with --redo filter; "
        f"{rejects}",
    }.get(stage, rejects)
