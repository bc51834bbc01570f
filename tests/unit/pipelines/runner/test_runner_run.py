"""The runner: what is skipped, refused, redone and saved. End to end, in this process."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pipeline_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emsmine.errors import ConfigError, InputError, ModelError, StaleOutputError, TaskFailedError
from emsmine.mining.text.rules import RulesConfig
from emsmine.pipelines.configuration import build_settings, read_config
from emsmine.pipelines.runner.run import CONFIG_NAME, LOG_NAME, RunOptions, check_settings, run_stages
from emsmine.pipelines.settings import (
    STAGE_NAMES,
    STAGES,
    STEPS,
    EncodeSettings,
    LangidSettings,
    SearchSettings,
    Settings,
)
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store.lock import run_lock
from emsmine.pipelines.store.tasks import Runtime

PAIR = (("deu_Latn", "eng_Latn"),)

# The steps of an approximate search have no tasks in an exact one, nor has that which looks into an earlier run; these
# runs choose by margin.
STEPS_WITH_TASKS = [
    f"{name}.{step.name}"
    for name in STAGE_NAMES
    if name != "rescore"
    for step in load_stage(name).steps
    if f"{name}.{step.name}" not in ("index.build", "search.sample", "search.reuse", "search.audit")
]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_the_catalogue_tells_of_every_step_in_order(name: str) -> None:
    stage = load_stage(name)
    assert [step.name for step in stage.steps] == list(STAGES[name].steps)
    assert {step.stage for step in stage.steps} == {name}
    order = list(STEPS)
    taken = [(order.index(told.takes), order.index(step)) for step, told in STEPS.items() if told.takes]
    assert all(before < after for before, after in taken)


def test_same_settings_again_run_nothing(copied: Path, crawl: list[Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    again = kit.run(crawl, copied)
    assert again.code == 0
    logged = [line for line in again.err.splitlines() if " tasks" in line]
    assert len(logged) == len(STEPS_WITH_TASKS)
    assert all("kept, 0 rows" in line for line in logged)
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert set(changed) <= {"emsmine.lock", "emsmine.stat"}


def test_saved_settings_continue_a_run_without_any_flag(copied: Path) -> None:
    again = kit.emsmine("run", "-o", copied, "-j", 1)
    assert again.code == 0, again.err
    assert "ingest.read: 2 tasks, 2 kept" in again.err


def test_changed_threshold_is_named_and_nothing_is_touched(copied: Path, crawl: list[Path]) -> None:
    before = kit.tree(copied)
    stale = kit.run(crawl, copied, "--threshold", "1.2")
    assert stale.code == 1
    for word in ("select.select/deu_Latn-eng_Latn", "params.threshold 1.0 -> 1.2", "--redo select", str(copied)):
        assert word in stale.err
    # The saved settings, too, are still those of the results.
    assert kit.tree(copied) == before
    assert kit.emsmine("run", "-o", copied, "-j", 1).code == 0


def test_redo_replaces_a_stage_and_all_later_ones_only(copied: Path, crawl: list[Path]) -> None:
    before = kit.tree(copied)
    redone = kit.run(crawl, copied, "--threshold", "1.6", "--redo", "select")
    assert redone.code == 0, redone.err
    after = kit.tree(copied)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed
    assert {name.split("/")[0] for name in changed} <= {
        "config.toml",
        "export",
        "manifests",
        "pairs",
        "rejects",
        "selected",
    }
    assert all(row["margin"] >= 1.6 for row in kit.rows(copied, "selected"))
    assert len(kit.rows(copied, "selected")) < 2 * kit.NUM_PARALLEL
    assert read_config(copied / CONFIG_NAME)["select"]["threshold"] == 1.6
    # And back again: the very bytes of the first run.
    assert kit.run(crawl, copied, "--redo", "select").code == 0
    assert kit.tree(copied) == before


def test_a_pair_of_known_languages_reuses_the_vectors(copied: Path, crawl: list[Path]) -> None:
    more = kit.run(crawl, copied, pairs=[*kit.PAIRS, "en-fr"])
    assert more.code == 0, more.err
    assert "encode.encode: 4 tasks, 4 kept" in more.err
    assert "search.tile: 3 tasks, 2 kept" in more.err
    assert (copied / "export" / "en-fr.tsv").read_text(encoding="utf-8")


def test_a_pair_of_a_new_language_is_stale_at_langid(copied: Path, crawl: list[Path]) -> None:
    stale = kit.run(crawl, copied, pairs=[*kit.PAIRS, "de-it"])
    assert stale.code == 1
    assert "langid.split" in stale.err
    assert "ita_Latn" in stale.err
    assert "--redo langid" in stale.err


def test_changed_input_is_stale_by_name(tmp_path: Path) -> None:
    files = kit.write_crawl(tmp_path / "in")
    root = tmp_path / "run"
    assert kit.run(files, root).code == 0
    files[1].write_bytes(files[1].read_bytes() + kit.json_line("https://x.example", "Ein neuer Satz über das Wetter."))
    stale = kit.run(files, root)
    assert stale.code == 1
    for word in ("ingest.read/00001", f"input {files[1]} changed", "--redo ingest"):
        assert word in stale.err
    assert kit.run(files, root, "--redo", "ingest").code == 0
    assert any(row["url"] == "https://x.example" for row in kit.rows(root, "documents"))


def test_another_input_is_stale_where_results_depend_on_it(tmp_path: Path) -> None:
    files = kit.write_crawl(tmp_path / "in")
    root = tmp_path / "run"
    assert kit.run(files[:1], root, pairs=["es-fr"]).code == 0
    stale = kit.run(files, root, pairs=["es-fr"])
    assert stale.code == 1
    assert "input documents/00001.parquet (new)" in stale.err
    assert "--redo dedup" in stale.err


def test_a_removed_input_is_stale_and_its_rows_go_with_redo(tmp_path: Path) -> None:
    files = kit.write_crawl(tmp_path / "in")
    root = tmp_path / "run"
    assert kit.run(files, root).code == 0
    before = kit.tree(root)
    stale = kit.run(files[:1], root)
    assert stale.code == 1
    for word in ("ingest.read", "(00001)", "--redo ingest"):
        assert word in stale.err
    assert kit.tree(root) == before
    assert kit.run(files[:1], root, "--redo", "ingest").code == 0
    assert {row["source_file"] for row in kit.rows(root, "documents")} == {files[0].name}
    assert kit.rows(root, "pairs/deu_Latn-eng_Latn") == []
    other = tmp_path / "other"
    assert kit.run(files[:1], other).code == 0
    assert kit.tree(root) == kit.tree(other)


@pytest.mark.parametrize("stage", ["search", "select", "filter", "export"])
def test_a_stage_for_one_pair_keeps_the_results_of_the_others(copied: Path, stage: str) -> None:
    before = kit.tree(copied)
    refused = kit.emsmine(stage, "-o", copied, "-p", "de-en", "-j", 1)
    assert refused.code == 1
    for word in (f"{stage}.", "fra_Latn-spa_Latn", f"--redo {stage}"):
        assert word in refused.err
    assert kit.tree(copied) == before


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        run_stages(tmp_path / "run", Settings(inputs=(str(tmp_path / "no.warc"),)), ["ingest"], RunOptions())
    assert "no.warc" in str(caught.value)


def test_a_stage_before_its_turn_names_the_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dedup\.apply is not finished .* run: emsmine dedup"):
        run_stages(tmp_path / "run", Settings(pairs=PAIR), ["langid"], RunOptions())


@pytest.mark.parametrize(
    ("settings", "runtime", "error", "words"),
    [
        (Settings(), Runtime(), ConfigError, ["no language pair", "--pairs"]),
        (Settings(pairs=PAIR, encode=EncodeSettings("ems:nothing")), Runtime(), ConfigError, ["'nothing'", "default"]),
        (Settings(pairs=PAIR, encode=EncodeSettings("bert")), Runtime(), ConfigError, ["'bert'", "KIND:NAME"]),
        (Settings(pairs=PAIR, encode=EncodeSettings("abc:x")), Runtime(), ConfigError, ["'abc'", "ems"]),
        (Settings(pairs=PAIR, langid=LangidSettings("cld9")), Runtime(), ConfigError, ["'cld9'", "py3langid"]),
        (Settings(pairs=(("deu_Latn", "dtp_Latn"),)), Runtime(), ConfigError, ["dtp_Latn"]),
        (
            Settings(pairs=PAIR, filter=RulesConfig(rules_off=("nope",))),
            Runtime(),
            ConfigError,
            ["nope", "identical"],
        ),
        (Settings(pairs=PAIR), Runtime(device="tpu9"), ConfigError, ["'tpu9'", "cpu"]),
    ],
)
def test_settings_that_would_fail_late_fail_before_anything_runs(
    tmp_path: Path, crawl: list[Path], settings: Settings, runtime: Runtime, error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        run_stages(
            tmp_path / "run", replace(settings, inputs=(str(crawl[0]),)), STAGE_NAMES, RunOptions(runtime=runtime)
        )
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_damaged_model_fails_before_anything_runs(tmp_path: Path) -> None:
    from emsmine.encoder.folders import pretrained_folder

    model = Path(shutil.copytree(pretrained_folder("default"), tmp_path / "model"))
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="is damaged") as caught:
        check_settings(Settings(pairs=PAIR, encode=EncodeSettings(f"ems:{model}")), ["encode"], RunOptions())
    assert str(model / "model.safetensors") in str(caught.value)


def test_unknown_stage_to_redo_is_refused_before_anything_goes(copied: Path) -> None:
    before = kit.tree(copied)
    with pytest.raises(ConfigError, match="selct"):
        run_stages(copied, Settings(pairs=PAIR), ["select"], RunOptions(redo=("selct",)))
    assert kit.tree(copied) == before


def test_a_damaged_shard_is_found_before_it_is_used(copied: Path, crawl: list[Path], finished: Path) -> None:
    path = copied / "sentences" / "deu_Latn" / "00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    failed = kit.emsmine("encode", "-o", copied, "--redo", "encode", "-j", 1)
    assert failed.code == 1
    for word in (str(path), "does not match its manifest", "--redo"):
        assert word in failed.err
    assert "encode.encode/deu_Latn/00000" in failed.err
    # A run compares all that it is about to call done, and makes the shard again.
    repaired = kit.run(crawl, copied)
    assert repaired.code == 0, repaired.err
    assert f"{path} does not match its manifest" in repaired.err
    assert kit.tree(copied) == kit.tree(finished)


def test_a_missing_or_shortened_shard_is_made_again(copied: Path, crawl: list[Path], finished: Path) -> None:
    (copied / "segments" / "deu_Latn" / "00001.parquet").unlink()
    shard = copied / "embeddings" / "eng_Latn" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    again = kit.run(crawl, copied, "--formats", "tsv,moses,parquet,jsonl")
    assert again.code == 0, again.err
    assert "00001.parquet is missing" in again.err
    assert kit.tree(copied) == kit.tree(finished)


def test_one_failed_task_leaves_the_others_done(tmp_path: Path, crawl: list[Path]) -> None:
    odd = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"body": ["Text in a column of another name."]}), odd)
    with pytest.raises(TaskFailedError, match=r"1 of 3 tasks failed \(ingest.read/00001\)"):
        run_stages(
            tmp_path / "run", Settings(inputs=(str(crawl[0]), str(odd), str(crawl[1]))), ["ingest"], RunOptions()
        )
    found = {row["source_file"] for row in kit.rows(tmp_path / "run", "documents")}
    assert found == {crawl[0].name, crawl[1].name}


def test_a_second_run_is_refused_while_one_holds_the_directory(copied: Path, crawl: list[Path]) -> None:
    with run_lock(copied, "test"):
        refused = kit.run(crawl, copied)
    assert refused.code == 3
    assert "in use by" in refused.err
    assert str(copied) in refused.err


def test_the_log_tells_time_and_memory_of_what_ran(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == STEPS_WITH_TASKS
    assert all(line["peak_rss_mb"] > 10 and line["seconds"] >= 0 for line in lines)


def test_stale_error_is_one_that_callers_can_catch(copied: Path, crawl: list[Path]) -> None:
    settings = build_settings(read_config(copied / CONFIG_NAME), {})
    with pytest.raises(StaleOutputError, match=r"search\.tile/.*params\.k 4 -> 7"):
        run_stages(copied, replace(settings, search=SearchSettings(7)), ["search"], RunOptions())
