"""rescore: candidates that are worth it are read again, and `select` chooses by what was found."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pytest
from safetensors.numpy import load_file

import emsmine
from emsmine.encoder.ems import EMSEncoder
from emsmine.mining.scoring.files import encoded_scorer
from emsmine.mining.scoring.head import Head
from emsmine.mining.scoring.scorer import PairScorer
from emsmine.mining.scoring.training import TrainedScorer
from emsmine.pipelines.rescoring import LEAST_MARGIN, SCORER_FILE, load_rescorer
from emsmine.pipelines.stages import rescore
from emsmine.pipelines.store.store import Store

PAIR = "deu_Latn-eng_Latn"
STEPS = ("collect", "look", "score")


def run(root: Path, crawl: list[Path], *more: object, until: str = "select", pair: str = "de-en") -> kit.Result:
    return kit.emsmine("run", *crawl, "-p", pair, "-o", root, "-j", 1, "--until", until, *more)


@pytest.fixture(scope="module")
def whole(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in one shard, up to the selection; copy it before changing anything."""
    root = tmp_path_factory.mktemp("whole") / "run"
    assert run(root, crawl).code == 0
    return root


@pytest.fixture(scope="module")
def cut(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same in shards of nine sentences; copy it before changing anything."""
    root = tmp_path_factory.mktemp("cut") / "run"
    assert run(root, crawl, "--shard-rows", 9).code == 0
    return root


def copied(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def selected(root: Path) -> list[dict[str, Any]]:
    return kit.rows(root, f"selected/{PAIR}")


def by_text(root: Path, dataset: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows of a dataset by the texts of their pair, without what hangs on the shards."""
    names = ("source_id", "target_id")
    sides = [
        {row["sentence_id"]: row["text"] for row in kit.rows(root, f"sentences/{lang}")} for lang in PAIR.split("-")
    ]
    return {
        (sides[0][row["source_id"]], sides[1][row["target_id"]]): {
            name: value for name, value in row.items() if name not in names
        }
        for row in kit.rows(root, f"{dataset}/{PAIR}")
    }


def results(root: Path) -> dict[str, str]:
    wanted = ("candidates", "looked", "rescored", "selected", "rejects", "manifests")
    return {name: digest for name, digest in kit.tree(root, config=False).items() if name.startswith(wanted)}


def test_selected_pairs_are_translations_by_probability(whole: Path) -> None:
    rows = selected(whole)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0.5 <= score <= 1 for score in scores)
    right = [
        kit.PARALLEL["de"].index(one) == kit.PARALLEL["en"].index(other) for one, other in by_text(whole, "selected")
    ]
    assert sum(right) > kit.NUM_PARALLEL / 2
    assert np.mean(right) > 0.8
    assert len({row["source_id"] for row in rows}) == len({row["target_id"] for row in rows}) == len(rows)


def test_only_candidates_that_are_worth_it_are_read(whole: Path) -> None:
    rows = by_text(whole, "candidates")
    assert len(rows) >= kit.NUM_PARALLEL
    assert min(row["margin"] for row in rows.values()) >= LEAST_MARGIN["ratio"]
    assert min(row["cosine"] for row in rows.values()) >= 0.35
    rescored = by_text(whole, "rescored")
    assert {pair: {name: row[name] for name in rows[pair]} for pair, row in rescored.items()} == rows


@pytest.mark.parametrize("stage", ["rescore", "select"])
def test_workers_change_no_byte(cut: Path, crawl: list[Path], tmp_path: Path, stage: str) -> None:
    root = copied(cut, tmp_path)
    assert len(list((root / "looked" / PAIR).glob("*.parquet"))) == 3
    result = run(root, crawl, "--shard-rows", 9, "-j", 2, "--redo", stage)
    assert result.code == 0, result.err
    assert kit.tree(root) == kit.tree(cut)


def test_shards_change_no_bit_of_a_score(whole: Path, cut: Path) -> None:
    for dataset in ("candidates", "looked", "rescored", "selected"):
        assert by_text(cut, dataset) == by_text(whole, dataset)
        assert len(kit.rows(cut, f"{dataset}/{PAIR}")) == len(by_text(cut, dataset))


def test_stopped_and_resumed(cut: Path, crawl: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copied(cut, tmp_path)
    real, calls = rescore._texts, []

    def failing(*args: Any) -> list[str]:
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("the machine stops")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(rescore, "_texts", failing)
        stopped = run(root, crawl, "--shard-rows", 9, "--redo", "rescore")
    assert stopped.code != 0
    assert "the machine stops" in stopped.err
    assert not (root / "selected").exists() or not list((root / "selected").rglob("*.parquet"))
    again: list[Any] = []

    def counting(*args: Any) -> list[str]:
        again.append(args)
        return real(*args)

    monkeypatch.setattr(rescore, "_texts", counting)
    resumed = run(root, crawl, "--shard-rows", 9)
    assert resumed.code == 0, resumed.err
    # Both sides of the one shard that failed.
    assert len(again) == 2
    assert kit.tree(root) == kit.tree(cut)


def test_counts_add_up(cut: Path) -> None:
    store = Store(cut)
    totals = {}
    for stage, step in (*(("rescore", step) for step in STEPS), ("select", "select")):
        manifests = store.manifests(stage, step)
        assert len(manifests) == (3 if step == "look" else 1)
        counted = [(m.rows_in, m.rows_out, sum(m.dropped.values())) for m in manifests]
        totals[step] = [sum(column) for column in zip(*counted, strict=True)]
    for rows_in, rows_out, num_dropped in totals.values():
        assert rows_in == rows_out + num_dropped
    merged = kit.rows(cut, f"neighbours/{PAIR}")
    sides = {row["sentence_id"] for row in merged}
    assert len(sides) >= kit.NUM_PARALLEL
    read = totals["collect"][1]
    assert totals["collect"][0] > read
    assert totals["look"] == totals["score"] == [read, read, 0]
    assert totals["select"][:2] == [read, len(selected(cut))]
    assert set(kit.dropped(cut, "rescore", "collect")) <= {"below_least_margin", "below_cosine_floor"}
    assert set(kit.dropped(cut, "select", "select")) <= {"below_threshold", "not_retrieved"}
    funnel = kit.emsmine("report", cut, "--json")
    assert funnel.code == 0, funnel.err
    shown = {row["step"]: row for row in funnel.json if row["step"].startswith(("rescore", "select"))}
    assert [row["rows_out"] for row in shown.values()][-1] == len(selected(cut))


def test_switched_off_there_is_no_task_and_the_margin_decides(whole: Path, crawl: list[Path], tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    stale = run(root, crawl, "--no-rescore")
    assert stale.code != 0
    assert "--redo rescore" in stale.err
    result = run(root, crawl, "--no-rescore", "--redo", "rescore")
    assert result.code == 0, result.err
    assert [Store(root).manifests("rescore", step) for step in STEPS] == [[], [], []]
    for dataset in ("candidates", "looked", "rescored"):
        assert not list((root / dataset).rglob("*.parquet"))
    rows = selected(root)
    assert rows
    assert all(row["score"] == row["margin"] >= 1.2 and row["support"] == 0 for row in rows)
    # What is chosen with all in memory, from the vectors of the same sentences.
    sides = [[row["text"] for row in kit.rows(root, f"sentences/{lang}")] for lang in PAIR.split("-")]
    mined = emsmine.mine(*sides, source_lang="de", target_lang="en", rescore=False)
    assert {(pair.source, pair.target) for pair in mined} == set(by_text(root, "selected"))
    back = run(root, crawl, "--rescore", "--redo", "rescore")
    assert back.code == 0, back.err
    assert results(root) == results(whole)


def test_mining_in_memory_reads_the_same(whole: Path, crawl: list[Path], tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    assert run(root, crawl, "--no-documents", "--redo", "rescore").code == 0
    sides = [[row["text"] for row in kit.rows(root, f"sentences/{lang}")] for lang in PAIR.split("-")]
    mined = {(p.source, p.target): p.score for p in emsmine.mine(*sides, source_lang="de", target_lang="en")}
    stored = {pair: row["score"] for pair, row in by_text(root, "selected").items()}
    # A run keeps vectors as float16, so a candidate near the least margin may be in one and not in the other.
    assert len(set(mined) ^ set(stored)) <= 2
    both = set(mined) & set(stored)
    assert np.mean([mined[pair] == stored[pair] for pair in both]) > 0.8


def test_documents_support_their_pairs(whole: Path, crawl: list[Path], tmp_path: Path) -> None:
    with_documents = by_text(whole, "rescored")
    root = copied(whole, tmp_path)
    result = run(root, crawl, "--no-documents")
    assert result.code != 0
    assert run(root, crawl, "--no-documents", "--redo", "rescore").code == 0
    alone = by_text(root, "rescored")
    assert set(alone) == set(with_documents)
    assert {row["support"] for row in alone.values()} == {0}
    assert max(row["support"] for row in with_documents.values()) >= 3
    for pair, row in with_documents.items():
        gained = row["probability"] - alone[pair]["probability"]
        assert gained > 0 if row["support"] and row["probability"] < 0.999 else gained >= 0
    # Six sentences a page, and a translated page: at most five others support a pair.
    assert max(row["support"] for row in with_documents.values()) <= kit.PER_PAGE
    assert all(row["support"] == with_documents[pair]["support"] for pair, row in by_text(whole, "selected").items())


def test_sorted_by_margin(whole: Path, crawl: list[Path], tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    result = run(root, crawl, "--sort-by", "margin", "--redo", "select")
    assert result.code == 0, result.err
    rows = selected(root)
    assert rows
    assert [row["margin"] for row in rows] == sorted((row["margin"] for row in rows), reverse=True)
    assert all(row["score"] == row["margin"] >= 1.2 for row in rows)
    read = {(row["source_id"], row["target_id"]) for row in kit.rows(root, f"rescored/{PAIR}")}
    assert {(row["source_id"], row["target_id"]) for row in rows} <= read


def test_a_threshold_cuts_the_tail(whole: Path, crawl: list[Path], tmp_path: Path) -> None:
    root, rows = copied(whole, tmp_path), selected(whole)
    place = max(range(1, len(rows)), key=lambda place: rows[place - 1]["score"] - rows[place]["score"])
    cut = (rows[place - 1]["score"] + rows[place]["score"]) / 2
    result = run(root, crawl, "--threshold", cut, "--redo", "select")
    assert result.code == 0, result.err
    assert selected(root) == rows[:place]
    assert kit.dropped(root, "select", "select")["below_threshold"] >= len(rows) - place
    assert run(root, crawl, "--threshold", "0", "--redo", "select").code == 0
    assert selected(root)[: len(rows)] == rows
    assert "below_threshold" not in kit.dropped(root, "select", "select")


@pytest.mark.parametrize("margin", ["distance", "absolute"])
def test_other_margins_need_no_threshold(whole: Path, crawl: list[Path], tmp_path: Path, margin: str) -> None:
    root = copied(whole, tmp_path)
    result = run(root, crawl, "--margin", margin, "--redo", "rescore")
    assert result.code == 0, result.err
    least = LEAST_MARGIN.get(margin, -1.0)
    assert min(row["margin"] for row in by_text(root, "candidates").values()) >= least
    assert len(selected(root)) > kit.NUM_PARALLEL / 2
    refused = run(root, crawl, "--margin", margin, "--sort-by", "margin", "--redo", "select")
    assert refused.code == 2
    assert "--threshold" in refused.err


def test_a_threshold_that_is_no_probability_is_refused_at_once(crawl: list[Path], tmp_path: Path) -> None:
    result = run(tmp_path / "run", crawl, "--threshold", "1.2")
    assert result.code == 2
    for word in ("1.2", "probability", "--sort-by margin", "--no-rescore"):
        assert word in result.err
    assert not (tmp_path / "run" / "documents").exists()


def test_a_language_that_is_not_there(crawl: list[Path], tmp_path: Path) -> None:
    result = run(tmp_path / "run", crawl, pair="de-ja")
    assert result.code == 0, result.err
    assert kit.rows(tmp_path / "run", "selected/deu_Latn-jpn_Jpan") == []
    turned = run(tmp_path / "other", crawl, pair="en-ja,cs-en")
    assert turned.code == 0, turned.err


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """Return a folder with the shipped model and a scorer of its own."""
    return kit.own_model(tmp_path / "model")


def change_scorer(path: Path) -> None:
    """Let the second look be surer of everything."""
    tensors = load_file(path)
    rescorer = load_rescorer(f"ems:{path.parent}")
    context = rescorer.scorer.context_head
    biases = (*context.biases[:-1], context.biases[-1] + 1)
    scorer = PairScorer(
        rescorer.scorer.vectors, rescorer.scorer.pair_head, Head(context.mean, context.scale, context.weights, biases)
    )
    parts = [tensors[name].astype(np.float32) for name in ("tokens.projection", "tokens.log_weights")]
    path.write_bytes(encoded_scorer(TrainedScorer(scorer, parts[0], parts[1]), EMSEncoder(path.parent).fingerprint()))


def test_another_scorer_makes_results_stale(whole: Path, crawl: list[Path], tmp_path: Path, own_model: Path) -> None:
    root = copied(whole, tmp_path)
    how = ("--scorer", f"ems:{own_model}", "--no-documents")
    first = run(root, crawl, *how, "--redo", "rescore")
    assert first.code == 0, first.err
    before, done = by_text(root, "rescored"), results(root)
    assert run(root, crawl, *how).code == 0
    assert results(root) == done
    change_scorer(own_model / SCORER_FILE)
    stale = run(root, crawl, *how)
    assert stale.code != 0
    assert "rescore.look" in stale.err
    assert "fingerprint" in stale.err
    assert results(root) == done
    assert run(root, crawl, *how, "--redo", "rescore").code == 0
    after = by_text(root, "rescored")
    assert set(after) == set(before)
    gained = [row["probability"] - before[pair]["probability"] for pair, row in after.items()]
    assert min(gained) >= 0
    assert max(gained) > 0.01


def test_a_damaged_or_missing_scorer_stops_a_run_before_it_begins(
    crawl: list[Path], tmp_path: Path, own_model: Path
) -> None:
    content = (own_model / SCORER_FILE).read_bytes()
    (own_model / SCORER_FILE).write_bytes(content[:-100] + b"\0" * 100)
    how = (tmp_path / "run", crawl, "--scorer", f"ems:{own_model}")
    damaged = run(*how)
    assert damaged.code != 0
    assert f"{own_model / SCORER_FILE} is damaged" in damaged.err
    (own_model / SCORER_FILE).unlink()
    missing = run(*how)
    assert missing.code != 0
    assert "train-scorer" in missing.err
    assert not (tmp_path / "run" / "documents").exists()
    # Nothing is wrong with an encoder that has no scorer: it mines by margin.
    alone = run(tmp_path / "run", crawl, "--encoder", f"ems:{own_model}")
    assert alone.code == 0, alone.err
    assert all(row["score"] == row["margin"] for row in selected(tmp_path / "run"))


def test_sentences_stand_in_other_pairs_as_well(crawl: list[Path], tmp_path: Path) -> None:
    """Two pairs share a language: each has its own candidates."""
    root = tmp_path / "run"
    assert run(root, crawl, pair="de-en,en-es").code == 0
    found = defaultdict(list)
    for pair in (PAIR, "eng_Latn-spa_Latn"):
        found[pair] = kit.rows(root, f"selected/{pair}")
        assert len(found[pair]) > kit.NUM_PARALLEL / 2
    assert {m.spec.partition.split("/")[0] for m in Store(root).manifests("rescore", "look")} == set(found)
