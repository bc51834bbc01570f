"""Two lists of sentences: reading, cleaning, mining."""

from pathlib import Path

import numpy as np
import pytest
from pipeline_kit import AngleEncoder

from emsmine.errors import InputError
from emsmine.pipelines.direct.mine import mine_files, write_pairs
from emsmine.pipelines.direct.sentences import collect, encode_usable, read_lines
from emsmine.pipelines.settings import SelectSettings
from emsmine.pipelines.store.suspicious import ScoredPair


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("one\u2028still one\x0b\r\ntwo\n\nlast".encode())
    assert list(read_lines(str(path))) == ["one\u2028still one\x0b".encode(), b"two", b"", b"last"]


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(InputError):
            list(read_lines(str(path)))


def test_collect_counts_what_it_leaves_out() -> None:
    side = collect([b"Eins.", b"", "zwei\u00a0x", b"caf\xe9", b"EINS!", b" \xe2\x80\x8b ", b"x" * 11], "deu_Latn", 10)
    assert side.texts == ["Eins.", "zwei x"]
    assert side.places == [0, -1, 1, -1, 0, -1, -1]
    assert side.dropped == {"empty": 2, "invalid_utf8": 1, "duplicate": 1, "too_long": 1}


def test_sentences_without_a_vector_are_left_out() -> None:
    side = encode_usable(AngleEncoder(), collect(["x", "90", "y", "0"], "deu_Latn", 10))
    assert (side.ids.tolist(), side.num_unusable) == ([1, 3], 2)
    np.testing.assert_allclose(side.vectors, [[0, 1], [1, 0]], atol=1e-6)


def mine(
    tmp_path: Path, source: list[str], target: list[str], k: int = 4, **settings: object
) -> tuple[list[ScoredPair], dict[str, int]]:
    for name, lines in (("s", source), ("t", target)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    chosen = SelectSettings(**{"margin": "absolute", "threshold": 0.9, "cosine_floor": -1.0, **settings})  # type: ignore[arg-type]
    mined = mine_files(
        str(tmp_path / "s"),
        str(tmp_path / "t"),
        ("deu_Latn", "eng_Latn"),
        AngleEncoder(),
        k=k,
        settings=chosen,
        max_chars=99,
    )
    return mined.pairs, mined.counts


def test_pairs_by_hand(tmp_path: Path) -> None:
    pairs, counts = mine(tmp_path, ["0 a", "90 b", "nothing", "0 a"], ["100 y", "10 x", "200 z", ""])
    # cos 10° for both pairs: equal margins are ordered by the place in the source.
    assert [(pair.source, pair.target) for pair in pairs] == [("0 a", "10 x"), ("90 b", "100 y")]
    assert [pair.margin for pair in pairs] == pytest.approx([np.cos(np.deg2rad(10))] * 2, abs=1e-6)
    assert [pair.score for pair in pairs] == [pair.margin for pair in pairs]
    assert counts == {
        "source.sentences": 3,
        "source.duplicate": 1,
        "target.sentences": 3,
        "target.empty": 1,
        "source.no_vector": 1,
        "candidates": 6,
        "pairs": 2,
        "suspicious.few_neighbours": 2,
    }


def test_threshold_floor_and_retrieval_reach_the_choice(tmp_path: Path) -> None:
    sides = ["0 a", "20 b"], ["1 x"]
    assert len(mine(tmp_path, *sides)[0]) == 1
    assert len(mine(tmp_path, *sides, retrieval="forward")[0]) == 2
    assert len(mine(tmp_path, *sides, retrieval="forward", threshold=0.99)[0]) == 1
    assert len(mine(tmp_path, *sides, retrieval="forward", cosine_floor=0.99)[0]) == 1


def test_a_side_without_sentences_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target .* has no usable sentence .*'empty': 2"):
        mine(tmp_path, ["0"], ["", " "])


def test_nothing_but_sentences_without_vectors_gives_no_pair(tmp_path: Path) -> None:
    pairs, counts = mine(tmp_path, ["x"], ["0"])
    assert pairs == []
    assert counts["source.no_vector"] == 1


def test_suspicious_pairs_are_marked_and_counted(tmp_path: Path) -> None:
    # One pair fits its crowded neighbourhood; the other is 30° apart with nothing else near it.
    crowd = [f"{degrees} c" for degrees in (0, 4, 8, 12, 16, 20)]
    pairs, counts = mine(tmp_path, [*crowd, "120 a"], [*crowd, "150 b"], k=2, margin="ratio", threshold=1.02)
    assert [(pair.source, pair.target) for pair in pairs if pair.suspicious] == [("120 a", "150 b")]
    (lonely,) = (pair for pair in pairs if pair.suspicious)
    assert lonely.suspicious == "low_cosine"
    assert lonely.cosine == pytest.approx(np.cos(np.deg2rad(30)), abs=1e-6)
    assert lonely.margin > 1.02
    assert {name: number for name, number in counts.items() if "suspicious" in name} == {"suspicious.low_cosine": 1}


def test_tsv_and_listing_are_written_whole(tmp_path: Path) -> None:
    pairs = [
        ScoredPair(0.9, 1.25, 0.5, "", "ä", "b"),
        ScoredPair(0.75, 1.0, 0.25, "low_cosine,few_neighbours", "c", "d"),
        ScoredPair(0.5, 0.75, 0.125, "low_cosine", "e", "f"),
    ]
    out, listing = tmp_path / "out.tsv", tmp_path / "listing.tsv"
    write_pairs(pairs, str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out.tsv"]
    write_pairs(pairs, str(out), str(listing))
    assert out.read_bytes() == "0.900000\tä\tb\n0.750000\tc\td\n0.500000\te\tf\n".encode()
    assert listing.read_bytes() == (
        b"1.000000\t0.250000\tlow_cosine,few_neighbours\tc\td\n0.750000\t0.125000\tlow_cosine\te\tf\n"
    )
    write_pairs(pairs[:1], str(out), str(listing))
    assert listing.read_bytes() == b""
