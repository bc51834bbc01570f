"""What a run takes over from an earlier one, what it refuses, and what it computes after all."""

import dataclasses
import shutil
from pathlib import Path

import pipeline_kit as kit
import pyarrow.parquet as pq
import pytest
import reuse_kit
from reuse_kit import PAIR, corpus, counters

from emsmine.errors import ConfigError
from emsmine.pipelines.configuration import build_settings, to_toml
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.earlier import EarlierShard, check_reuse
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return reuse_kit.write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def old(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the first file; copy it before changing anything."""
    return reuse_kit.first_run(files, tmp_path_factory.mktemp("old") / "run")


@pytest.fixture(scope="module")
def whole(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of both files at once."""
    root = tmp_path_factory.mktemp("whole") / "run"
    assert kit.run(files, root, pairs=PAIR).code == 0
    return root


@pytest.fixture(scope="module")
def grown(files: list[Path], old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of both files that takes the earlier one over; copy it before changing anything."""
    root = tmp_path_factory.mktemp("grown") / "run"
    result = kit.run(files, root, "--reuse", old, pairs=PAIR)
    assert result.code == 0, result.err
    return root


@pytest.fixture
def copied(old: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(old, tmp_path / "old"))


def test_the_result_is_that_of_one_run_and_little_is_computed(old: Path, whole: Path, grown: Path) -> None:
    assert corpus(grown) == corpus(whole)
    # Six sentences a side are new, and one comes in capitals, but after its first place.
    assert counters(grown, "encode", "encode") == {"reused_vectors": 36, "encoded_vectors": 12}
    assert counters(grown, "search", "merge") == {"reused_lists": 36, "searched_lists": 12}
    assert counters(whole, "encode", "encode") == counters(whole, "search", "merge") == {}
    manifest = Store(grown).manifest("encode", "encode", "deu_Latn/00000")
    taken = [ref.path for ref in manifest.spec.inputs[1:]]
    assert taken == [str(old / name / "deu_Latn/00000.parquet") for name in ("sentences", "embeddings")]


def test_a_run_on_a_run_on_a_run(old: Path, whole: Path, grown: Path, files: list[Path], tmp_path: Path) -> None:
    result = kit.run(files, tmp_path / "third", "--reuse", grown, pairs=PAIR)
    assert result.code == 0, result.err
    assert corpus(tmp_path / "third") == corpus(whole)
    assert counters(tmp_path / "third", "encode", "encode")["encoded_vectors"] == 0
    assert counters(tmp_path / "third", "search", "merge")["searched_lists"] == 0


def test_another_text_of_the_same_key_is_encoded(old: Path, files: list[Path], tmp_path: Path) -> None:
    # The later file first: a sentence in capitals now stands at the first place of its key.
    for name, more in (("at-once", ()), ("grown", ("--reuse", old))):
        assert kit.run(files[::-1], tmp_path / name, *more, pairs=PAIR).code == 0
    assert corpus(tmp_path / "grown") == corpus(tmp_path / "at-once")
    assert counters(tmp_path / "grown", "encode", "encode") == {"reused_vectors": 35, "encoded_vectors": 13}
    assert any(row["text"].isupper() for row in kit.rows(tmp_path / "grown", "sentences/eng_Latn"))


def test_finished_tasks_are_copied_if_their_fingerprint_is_the_same(old: Path, grown: Path) -> None:
    for stage, step in (("ingest", "read"), ("dedup", "sign"), ("langid", "split")):
        assert Store(grown).manifest(stage, step, "00000") == Store(old).manifest(stage, step, "00000")


def test_a_damaged_task_is_run_again(copied: Path, whole: Path, files: list[Path], tmp_path: Path) -> None:
    reuse_kit.damage(copied / "documents" / "00000.parquet")
    (copied / "signatures" / "00000.parquet").unlink()
    result = kit.run(files, tmp_path / "new", "--reuse", copied, pairs=PAIR)
    assert result.code == 0, result.err
    assert "documents/00000.parquet is damaged or missing; the task ingest.read/00000 is not taken over" in result.err
    assert "signatures/00000.parquet is damaged or missing; the task dedup.sign/00000 is not taken over" in result.err
    assert corpus(tmp_path / "new") == corpus(whole)


@pytest.mark.parametrize(
    "name", ["sentences/deu_Latn/00000.parquet", "embeddings/eng_Latn/00000.parquet", "neighbours"]
)
def test_damaged_vectors_and_neighbours_fail_the_run(
    copied: Path, files: list[Path], tmp_path: Path, name: str
) -> None:
    if name == "neighbours":
        name = "neighbours/deu_Latn-eng_Latn/backward-00000.parquet"
    reuse_kit.damage(copied / name)
    result = kit.run(files, tmp_path / "new", "--reuse", copied, pairs=PAIR)
    assert result.code == 1
    assert f"{copied / name} does not match its manifest" in result.err
    assert "belongs to an earlier run that is reused: repair that run, or do without it (--reuse '')" in result.err


def refused(*args: object) -> str:
    result = kit.emsmine(*args)
    assert result.code in (1, 2)
    return result.err.splitlines()[-1]


def test_what_cannot_be_an_earlier_run_is_refused_at_once(old: Path, files: list[Path], tmp_path: Path) -> None:
    new = tmp_path / "new"
    command = ("run", *files, "-p", "de-en", "-o", new, "--reuse")
    assert "s3://bucket/run is a URL; an earlier run must be a local directory" in refused(*command, "s3://bucket/run")
    assert "is the output directory itself" in refused(*command, tmp_path / "other" / ".." / "new")
    missing = refused(*command, tmp_path / "missing")
    assert f"{tmp_path / 'missing'} holds no run; give the --output of a finished emsmine run" in missing
    started = tmp_path / "started"
    assert kit.emsmine("ingest", files[0], "-o", started).code == 0
    assert f"it has no vectors yet. Continue it (emsmine run --output {started})" in refused(*command, started)
    assert not new.exists()


def test_vectors_of_another_encoder_are_refused(copied: Path, files: list[Path], tmp_path: Path) -> None:
    store = Store(copied)
    specs = []
    for manifest in store.manifests("encode", "encode"):
        spec = manifest.spec
        specs.append(dataclasses.replace(spec, params={**spec.params, "encoder_fingerprint": "0" * 64}))
        with store.task(specs[-1]):
            pass
    store.finish_step("encode", "encode", specs)
    said = refused("run", *files, "-p", "de-en", "-o", tmp_path / "new", "--reuse", copied)
    assert f"{copied} holds vectors of the encoder ems:default (fingerprint 000000000000)" in said
    assert "Give the same --encoder" in said


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--k", "5"), "it has 4 neighbours per sentence (k), this run wants 5"),
        (("--engine", "faiss-flat"), "only exact search can take neighbours over"),
        (("--engine", "faiss-ivf", "--min-recall", "0"), "only exact search can take neighbours over"),
    ],
)
def test_vectors_alone_are_reused_where_neighbours_cannot_be(
    old: Path, files: list[Path], tmp_path: Path, more: tuple[str, ...], reason: str
) -> None:
    for name, reuse in (("grown", ("--reuse", old)), ("at-once", ())):
        result = kit.run(files, tmp_path / name, *more, *reuse, pairs=PAIR)
        assert result.code == 0, result.err
        said = f"search: deu_Latn-eng_Latn: neighbours of {old} are not reused, all are searched: {reason}"
        assert (said in result.err) == bool(reuse)
    assert counters(tmp_path / "grown", "encode", "encode")["reused_vectors"] == 36
    assert counters(tmp_path / "grown", "search", "merge") == {}
    assert corpus(tmp_path / "grown") == corpus(tmp_path / "at-once")


def test_more_neighbours_in_the_earlier_run_do_no_harm(files: list[Path], whole: Path, tmp_path: Path) -> None:
    assert kit.run(files[:1], tmp_path / "old", "--k", "6", pairs=PAIR).code == 0
    assert kit.run(files, tmp_path / "new", "--reuse", tmp_path / "old", pairs=PAIR).code == 0
    assert corpus(tmp_path / "new") == corpus(whole)
    assert counters(tmp_path / "new", "search", "merge")["reused_lists"] == 36


def test_a_pair_or_a_search_that_the_earlier_run_lacks_is_computed(
    copied: Path, files: list[Path], tmp_path: Path
) -> None:
    result = kit.run(files, tmp_path / "new", "--reuse", copied, "--until", "search", pairs=("de-en", "en-fr"))
    assert result.code == 0, result.err
    assert "search: eng_Latn-fra_Latn: neighbours of" in result.err
    assert "it did not search this pair" in result.err
    assert counters(tmp_path / "new", "search", "merge") == {"reused_lists": 36, "searched_lists": 12}
    Store(copied).remove_step("search", "merge")
    other = kit.run(files, tmp_path / "other", "--reuse", copied, "--until", "search", pairs=PAIR)
    assert other.code == 0, other.err
    assert "all are searched: its search is not finished" in other.err


def test_lists_of_other_vectors_or_versions_are_not_used(copied: Path, files: list[Path], tmp_path: Path) -> None:
    store = Store(copied)
    (manifest,) = (m for m in store.manifests("search", "merge") if m.spec.partition.endswith("forward-00000"))
    others = [m.spec for m in store.manifests("search", "merge") if m.spec.partition != manifest.spec.partition]
    older = dataclasses.replace(manifest.spec, version=1)
    with store.task(older):
        pass
    store.finish_step("search", "merge", [older, *others])
    result = kit.run(files, tmp_path / "new", "--reuse", copied, "--until", "search", pairs=PAIR)
    assert "all are searched: it was searched by another version of emsmine" in result.err
    # The earlier run was encoded anew, with fewer sentences, and not searched since.
    spec = next(m.spec for m in store.manifests("encode", "encode") if m.spec.partition.startswith("deu"))
    rest = [m.spec for m in store.manifests("encode", "encode") if m.spec.partition != spec.partition]
    table = pq.read_table(copied / "embeddings/deu_Latn/00000.parquet", partitioning=None).slice(0, 3)
    renewed = dataclasses.replace(spec, params={**spec.params, "again": True})
    with store.task(renewed) as task:
        task.writer("embeddings/deu_Latn", table.schema).write(table)
    store.finish_step("encode", "encode", [renewed, *rest])
    store.remove_step("search", "merge")
    with store.task(manifest.spec):
        pass
    store.finish_step("search", "merge", [manifest.spec])
    result = kit.run(files, tmp_path / "newer", "--reuse", copied, "--until", "search", pairs=PAIR)
    assert "all are searched: its vectors changed after its search" in result.err
    assert result.code == 0, result.err
    assert counters(tmp_path / "newer", "encode", "encode")["reused_vectors"] == 18 + 3


def test_a_finished_run_outlives_the_earlier_one(copied: Path, whole: Path, files: list[Path], tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert kit.run(files, new, "--reuse", copied, pairs=PAIR).code == 0
    before = kit.tree(new)
    shutil.rmtree(copied)
    again = kit.emsmine("run", "-o", new, "-j", "1")
    assert again.code == 0, again.err
    assert f"reuse: {copied} is gone; what was taken from it stays" in again.err
    assert kit.tree(new) == before
    assert kit.emsmine("select", "-o", new, "--threshold", "0.9", "--redo", "select").code == 0
    assert "holds no run" in refused("search", "-o", new, "--redo", "search")
    assert "holds no run" in refused("run", "-o", new, "--redo", "langid")
    # Without it, what was made with it has other inputs than planned; made again, it is the same.
    assert "--redo encode" in refused("run", "-o", new, "--reuse", "")
    assert kit.emsmine("run", "-o", new, "--reuse", "", "--redo", "encode", "--threshold", "1.0", "-j", "1").code == 0
    assert kit.tree(new, config=False) == kit.tree(whole, config=False)


def test_the_earlier_run_is_an_input_and_is_not_written(
    copied: Path, whole: Path, files: list[Path], tmp_path: Path
) -> None:
    new = tmp_path / "new"
    before = kit.tree(copied)
    assert kit.run(files, new, pairs=PAIR).code == 0
    stale = kit.run(files, new, "--reuse", copied, pairs=PAIR)
    assert stale.code == 1
    assert f"input {copied / 'embeddings' / 'deu_Latn' / '00000.parquet'} (new)" in stale.err
    assert "--redo encode" in stale.err
    redone = kit.run(files, new, "--reuse", copied, "--redo", "encode", pairs=PAIR)
    assert redone.code == 0, redone.err
    assert corpus(new) == corpus(whole)
    assert kit.tree(copied) == before


def test_the_setting_is_kept_and_checked(old: Path, grown: Path) -> None:
    settings = Settings(reuse='old "run"')
    assert f'reuse = "{old}"' in (grown / "config.toml").read_text(encoding="utf-8")
    assert 'reuse = "old \\"run\\""' in to_toml(settings)
    assert "reuse" not in to_toml(Settings())
    assert build_settings({"reuse": "a"}, {}).reuse == "a"
    assert build_settings({"reuse": "a"}, {}, reuse="").reuse == ""
    with pytest.raises(ConfigError, match=r"reuse must be the directory of an earlier run as a string, got \['a'\]"):
        build_settings({"reuse": ["a"]}, {})


def test_stages_that_take_nothing_over_do_not_ask_for_it(tmp_path: Path) -> None:
    settings = Settings(reuse=str(tmp_path / "gone"))
    check_reuse(tmp_path, settings.reuse, ["select", "filter"])
    with pytest.raises(ConfigError, match="holds no run"):
        check_reuse(tmp_path, settings.reuse, ["ingest"])


@pytest.mark.parametrize(
    ("partitions", "number", "others", "expected"),
    [(1, 0, 3, [0, 1, 2]), (3, 1, 1, [0]), (2, 0, 3, [0, 1]), (2, 1, 3, [1, 2]), (3, 1, 3, [1]), (4, 3, 2, [1])],
)
def test_shards_of_two_runs_that_share_hashes(partitions: int, number: int, others: int, expected: list[int]) -> None:
    nothing = FileRef("x", "", 0)
    shard = EarlierShard(number, partitions, nothing, nothing)
    assert [other for other in range(others) if shard.overlaps(other, others)] == expected
