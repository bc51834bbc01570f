"""What to change if a plan does not fit the machine: each change is planned again to see that it does."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from emsmine.errors import ConfigError
from emsmine.pipelines.planning.plan import Plan, SearchRequest, even_shards, make_plan

_SMALLEST_SHARD = 1_000
_LARGEST_SHARD = 2_000_000
_MOST_SHARDS = 10_000
"""Advice goes no further: every two shards make a task."""
_ENGINES_TO_TRY = ("auto", "faiss-ivf", "faiss-ivfpq", "exact")


def remedies(plan: Plan) -> list[str]:
    """List changes of the command line, each of which lets the plan fit; every one was planned again to see it.

    If no single change does, one worker is combined with the others.
    """
    requests = [(plan.request, "")]
    if plan.request.workers > 1:
        requests.append((dataclasses.replace(plan.request, workers=1), " -j 1"))
    for request, more in requests:
        found = []
        for alternatives in _changes(request):
            fitting = (text for text, changed in alternatives if not make_plan(changed, plan.machine).problems)
            found += [f"{text}{more}" for text in itertools.islice(fitting, 1)]
        if found:
            return found
    return []


def _changes(request: SearchRequest) -> Iterator[Iterator[tuple[str, SearchRequest]]]:
    """Yield groups of alternatives, of each the one nearest to what was asked for first."""
    yield ((f"-j {n}", dataclasses.replace(request, workers=n)) for n in range(request.workers - 1, 0, -1))
    largest = max((request.largest(lang) for lang in request.shards), default=0)
    smallest = max(_SMALLEST_SHARD, *(request.rows(lang) // _MOST_SHARDS for lang in request.shards))
    for sizes in ([largest >> power for power in range(1, 32)], [largest << power for power in range(1, 32)]):
        yield (
            (f"--shard-rows {rows}", _resharded(request, rows)) for rows in sizes if smallest <= rows <= _LARGEST_SHARD
        )
    for engine in _ENGINES_TO_TRY:
        if engine != request.engine:
            changed = dataclasses.replace(request, engine=engine, done=_only_vectors(request.done))
            yield iter([(f"--engine {engine}", changed)])


def _resharded(request: SearchRequest, shard_rows: int) -> SearchRequest:
    shards = {lang: even_shards(request.rows(lang), shard_rows) for lang in request.shards}
    return dataclasses.replace(request, shards=shards, done=_only_vectors(request.done))


def _only_vectors(done: Mapping[str, int]) -> dict[str, int]:
    """Leave out the steps whose results another engine or size of shards does not use."""
    return {step: number for step, number in done.items() if step == "encode.encode"}


def check_fits(plan: Plan) -> None:
    """Refuse a plan that the machine cannot carry out.

    Raises:
        ConfigError: memory or disk is too small; the message says what would fit.
    """
    if not plan.problems:
        return
    found = remedies(plan)
    advice = f"What fits: {'; or '.join(found)}"
    if any("--shard-rows" in text for text in found):
        advice += " (a new --shard-rows needs --redo langid)"
    if not found:
        advice = "No other -j, --shard-rows or --engine fits: take a smaller --k, fewer sentences, or a larger machine"
    raise ConfigError(f"plan: {'. Also: '.join(plan.problems)}. {advice}")
