"""An earlier run whose results a run takes over: which of its files are of use, and what they were made with.

Whatever is taken over is checked: finished tasks by their fingerprint, vectors by text and encoder, neighbours by
vector (`emsmine.mining.exact.incremental`). So the result is that of a run without `reuse`, byte for byte. The files of
the earlier run are inputs of tasks by their absolute path and hash, like crawl files; nothing is written there.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emsmine.errors import ConfigError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.adopt import adopt
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef, TaskSpec

logger = logging.getLogger(__name__)

_HASHES = 1 << 64
_LAST_STEPS = {"ingest": "read", "dedup": "apply", "langid": "distinct", "encode": "encode", "search": "reuse"}
"""Stages that take much over from an earlier run, and the last step of each that does."""


@dataclass(frozen=True)
class EarlierShard:
    """A shard of sentences of the earlier run, and their vectors.

    Args:
        number: hash partition `number` of `partitions`.
        sentences, vectors: the two files, by absolute path.
    """

    number: int
    partitions: int
    sentences: FileRef
    vectors: FileRef

    def overlaps(self, number: int, partitions: int) -> bool:
        """Whether partition `number` of `partitions` may hold sentences that this shard holds."""
        mine, other = _range(self.number, self.partitions), _range(number, partitions)
        return mine[0] < other[1] and other[0] < mine[1]


def _range(number: int, partitions: int) -> tuple[int, int]:
    """Return the hashes (their first 64 bits) of a partition, as `langid.distinct` cuts them; the end is exclusive."""
    return (number * _HASHES) // partitions, ((number + 1) * _HASHES) // partitions


class EarlierRun:
    """The run directory that `reuse` names.

    Args:
        root: absolute path.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.store = Store(self.root)
        self._shards: dict[str, list[EarlierShard]] = {}

    def external(self, ref: FileRef) -> FileRef:
        """Name a file of the earlier run by its absolute path, as an input of a task of another run.

        Raises:
            ForeignPathError: it is no plain file, or behind a link.
        """
        inside.exists(self.root, ref.path)
        return FileRef(str(self.root / ref.path), ref.sha256, ref.rows)

    def shards(self, lang: str) -> list[EarlierShard]:
        """List the encoded shards of a language, sorted; none if the earlier run had not this language."""
        if lang not in self._shards:
            self._shards[lang] = self._find_shards(lang)
        return self._shards[lang]

    def _find_shards(self, lang: str) -> list[EarlierShard]:
        sentences = {ref.path: ref for ref in self.store.outputs("langid", "distinct", f"sentences/{lang}")}
        cuts = {item.spec.partition: item.spec for item in self.store.manifests("langid", "distinct")}
        found = []
        for manifest in self.store.manifests("encode", "encode"):
            spec = manifest.spec
            vectors = [output.ref for output in manifest.outputs if output.path.startswith(f"embeddings/{lang}/")]
            # Vectors of other sentences than those that are there now are left from before a change.
            if not vectors or spec.inputs[0] != sentences.get(spec.inputs[0].path):
                continue
            cut = cuts[spec.partition]
            number, partitions = cut.param("partition", int), cut.param("partitions", int)
            files = self.external(spec.inputs[0]), self.external(vectors[0])
            found.append(EarlierShard(number, partitions, *files))
        return found

    def neighbours(self, pair: tuple[str, str], k: int, versions: dict[str, int]) -> dict[str, FileRef] | str:
        """Find the neighbours of a pair that may be carried over.

        Args:
            pair: canonical.
            k: neighbours wanted.
            versions: of the steps `tile` and `merge` now.

        Returns:
            By name (`forward-00003`), the files with absolute paths; or why there are none, as text.
        """
        if not all(self.store.has_step("search", step) for step in versions):
            return "its search is not finished"
        folder = pair_folder(pair)
        tiles, merged = (
            [item for item in self.store.manifests("search", step) if item.spec.partition.startswith(f"{folder}/")]
            for step in ("tile", "merge")
        )
        if not tiles:
            return "it did not search this pair"
        engines = {str(item.spec.params.get("engine", "approximate")) for item in tiles}
        if engines != {"exact"}:
            return f"it searched this pair with the engine {', '.join(sorted(engines))}, not with exact"
        found_k = min(item.spec.param("k", int) for item in tiles)
        if found_k < k:
            return f"it has {found_k} neighbours per sentence (k), this run wants {k}"
        if any(item.spec.version != versions[item.spec.step] for item in (*tiles, *merged)):
            return "it was searched by another version of emsmine"
        if not self._is_current(pair, [item.spec for item in tiles]):
            return "its vectors changed after its search; finish that run first"
        outputs = [output.ref for item in merged for output in item.outputs]
        return {Path(ref.path).stem: self.external(ref) for ref in outputs if ref.path.startswith("neighbours/")}

    def _is_current(self, pair: tuple[str, str], tiles: list[TaskSpec]) -> bool:
        """Whether a search saw the vectors that are there now, all of them and no others."""
        searched = {ref for spec in tiles for ref in spec.inputs if ref.path.startswith("embeddings/")}
        stored = {ref for lang in pair for ref in self.store.outputs("encode", "encode", f"embeddings/{lang}")}
        usable = sum(len(self.shards(lang)) for lang in pair)
        return searched == stored and usable == len(stored)


def earlier_run(reuse: str) -> EarlierRun | None:
    """Open the run that the setting `reuse` names; None if it names none."""
    return EarlierRun(reuse) if reuse else None


def is_gone(reuse: str) -> bool:
    """Whether the run that the setting `reuse` names is not there (any more)."""
    return bool(reuse) and not Path(reuse, "manifests").is_dir()


def recorded(store: Store, stage: str, step: str, partition: str) -> tuple[FileRef, ...]:
    """Return the files of an earlier run that a finished task of this one took, to plan it after that run is gone."""
    inputs = store.manifest(stage, step, partition).spec.inputs
    return tuple(ref for ref in inputs if Path(ref.path).is_absolute())


def check_reuse(root: Path, reuse: str, stages: Sequence[str], redone: Sequence[str] = ()) -> None:
    """Refuse an earlier run that cannot be used, before anything is done.

    Args:
        root: run directory.
        reuse: the setting; "" for none.
        stages: stages that are to run.
        redone: stages whose results are removed first.

    Raises:
        ConfigError: it is a URL, the run directory itself, missing, or has no vectors yet. One that is gone is
            accepted where all that was taken from it is finished.
    """
    if not reuse:
        return
    where = f"reuse: {reuse}"
    if "://" in reuse:
        raise ConfigError(f"{where} is a URL; an earlier run must be a local directory: copy it here first")
    if Path(reuse).resolve() == root.resolve():
        raise ConfigError(
            f"{where} is the output directory itself, which is continued anyway; name another --output for the new "
            "run, or leave --reuse out"
        )
    needed = {stage: step for stage, step in _LAST_STEPS.items() if stage in stages}
    if is_gone(reuse):
        if not set(redone) & set(needed) and all(Store(root).has_step(*step) for step in needed.items()):
            logger.warning("%s is gone; what was taken from it stays", where)
            return
        raise ConfigError(
            f"{where} holds no run; give the --output of a finished emsmine run, or do without one (--reuse '')"
        )
    if "encode" in needed and not EarlierRun(reuse).store.has_step("encode", "encode"):
        raise ConfigError(
            f"{where} is not finished: it has no vectors yet. Continue it (emsmine run --output {reuse}), or "
            "do without it (--reuse '')"
        )


def check_encoder(reuse: str, encoder: str, fingerprint: str) -> None:
    """Refuse an earlier run with vectors of another encoder: nothing of it could be reused.

    Raises:
        ConfigError: its vectors were made by another encoder.
    """
    if not reuse or is_gone(reuse):
        return
    for manifest in EarlierRun(reuse).store.manifests("encode", "encode"):
        found = manifest.spec.param("encoder_fingerprint", str)
        if found != fingerprint:
            raise ConfigError(
                f"reuse: {reuse} holds vectors of the encoder {manifest.spec.param('encoder', str)} "
                f"(fingerprint {found[:12]}); this run encodes with {encoder} ({fingerprint[:12]}), so "
                "neither vectors nor neighbours can be reused. Give the same --encoder, or do without it (--reuse '')"
            )


def adopt_finished(store: Store, reuse: str, specs: list[TaskSpec]) -> list[TaskSpec]:
    """Take over the results of tasks that the earlier run has done already, under the very same fingerprint.

    Args:
        store: this run.
        reuse: the setting; "" for none.
        specs: tasks that are not done.

    Returns:
        The tasks that are left to do.
    """
    if not reuse or is_gone(reuse):
        return specs
    left = [spec for spec in specs if not adopt(store.root, Path(reuse), spec)]
    if len(left) < len(specs):
        name = f"{specs[0].stage}.{specs[0].step}"
        logger.info("%s: %d of %d tasks are taken over from %s", name, len(specs) - len(left), len(specs), reuse)
    return left
