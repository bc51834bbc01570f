"""The plan of a run directory: rows of finished stages, pairs of its settings, and what is done."""

import dataclasses
import logging
from collections import Counter
from pathlib import Path

from emsmine.errors import ConfigError
from emsmine.pipelines.planning.advice import check_fits
from emsmine.pipelines.planning.machine import (
    SearchLimits,
    look_at_machine,
    measure_multiplication,
    multiplies_int8,
    torch_sees_gpu,
)
from emsmine.pipelines.planning.plan import SMALL_OPERATIONS, Plan, SearchRequest, even_shards, make_plan
from emsmine.pipelines.planning.text import Speed, summary_lines
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.layout import existing_task_manifests, pair_folder
from emsmine.pipelines.store.parquet import read_slice
from emsmine.pipelines.store.schemas import embeddings_metadata
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef

NO_LIMITS = SearchLimits()

logger = logging.getLogger(__name__)

_STEPS = (
    "index.build",
    "search.sample",
    "search.reuse",
    "search.tile",
    "search.merge",
    "search.audit",
    "select.select",
)
_DATASETS = ("embeddings", "index", "tiles", "neighbours")


def encoder_dim(encoder: str) -> int:
    """Return the dimension of an encoder's vectors; loads it."""
    from emsmine.encoder.registry import load_encoder

    return load_encoder(encoder, device="cpu").dim


def request_from_run(
    store: Store, settings: Settings, workers: int, *, dim: int | None = None, shard_rows: int | None = None
) -> SearchRequest:
    """Read what is to be searched from the finished stages of a run directory.

    Args:
        store: the run directory.
        settings: the settings to plan with.
        workers: worker processes.
        dim: dimension of the vectors; None takes that of the stored vectors, or of the encoder.
        shard_rows: plan with shards of another size than those that are there.

    Raises:
        ConfigError: no pairs, or a language of them has no sentences yet.
    """
    if not settings.pairs:
        raise ConfigError("plan: no language pair given; add --pairs de-en (several: --pairs de-en,en-ru)")
    refs = {lang: _shards(store, lang) for lang in settings.languages}
    vectors = [ref for shards in refs.values() for ref in shards if ref.path.startswith("embeddings/")]
    shards = {lang: tuple(ref.rows for ref in found) for lang, found in refs.items()}
    if vectors and dim is None:
        described = embeddings_metadata(read_slice(store.verified(vectors[0]), 0, 0, ["sentence_id"]).schema)
        dim = int(described["dim"])
    done = _done(store, settings) if shard_rows is None else {}
    if shard_rows is not None:
        shards = {lang: even_shards(sum(rows), shard_rows) for lang, rows in shards.items()}
    if len(vectors) == sum(map(len, refs.values())):
        done["encode.encode"] = len(vectors)
    return SearchRequest(
        shards,
        settings.pairs,
        dim if dim is not None else encoder_dim(settings.encode.encoder),
        settings.index.engine,
        settings.index.index_memory_gb,
        settings.search.k,
        settings.search.audit_queries,
        workers,
        done,
        {
            name: sum(inside.file_stat(store.root, path).st_size for path in inside.walk(store.root, name))
            for name in _DATASETS
        },
    )


def _shards(store: Store, lang: str) -> list[FileRef]:
    """List the shards of a language: its vectors, or its sentences where they are not encoded yet."""
    for stage, step, dataset in (("encode", "encode", "embeddings"), ("langid", "distinct", "sentences")):
        refs = store.outputs(stage, step, f"{dataset}/{lang}") if store.has_step(stage, step) else []
        if refs:
            return refs
    raise ConfigError(
        f"plan: {store.root} holds no sentences of {lang} yet; run: emsmine run --until langid, or plan without a run "
        "directory, with --source-rows and --target-rows"
    )


def _done(store: Store, settings: Settings) -> dict[str, int]:
    """Count the finished tasks of the pairs and languages of the settings."""
    wanted = {pair_folder(pair) for pair in settings.pairs} | set(settings.languages)
    done: Counter[str] = Counter()
    for name in _STEPS:
        stage, step = name.split(".")
        for partition in existing_task_manifests(store.root, stage, step):
            done[name] += partition.split("/")[0] in wanted
    return dict(done)


def plan_and_measure(
    request: SearchRequest, output: Path, limits: SearchLimits = NO_LIMITS
) -> tuple[Plan, Speed | None]:
    """Plan a search on this machine; measure how fast it multiplies if the search is long enough to ask."""
    machine = look_at_machine(output, limits.memory_gb)
    plan = make_plan(request, machine)
    if plan.operations < SMALL_OPERATIONS:
        return plan, None
    if limits.device != "cpu" and machine.gpus and torch_sees_gpu():
        request = dataclasses.replace(request, device=limits.device, max_gpu_memory_gb=limits.gpu_memory_gb)
        plan = make_plan(request, machine)
        if plan.gpu is not None:
            return plan, None
    return make_plan(request, machine, int8=multiplies_int8()), Speed(measure_multiplication(request.dim))


def check_search(store: Store, settings: Settings, workers: int, limits: SearchLimits = NO_LIMITS) -> None:
    """Log the plan of a search that is about to start, and refuse it if this machine cannot carry it out.

    Raises:
        ConfigError: memory, or what may be taken of it, or disk is too small; the message says what would fit.
    """
    if not store.has_step("encode", "encode"):
        return  # the search itself says what is missing
    request = request_from_run(store, settings, workers)
    plan, speed = plan_and_measure(request, store.root, limits)
    if all(step.is_done for step in plan.steps if step.step.startswith("search.")):
        return
    for line in summary_lines(plan, speed):
        logger.info("%s", line)
    check_fits(plan)
