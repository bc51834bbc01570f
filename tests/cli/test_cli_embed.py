"""`emsmine embed`, as a user calls it, and the formats that others read."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pipeline_kit as kit
import pyarrow.parquet as pq
import pytest

import emsmine
from emsmine.encoder import registry
from emsmine.encoder.protocol import FloatArray
from emsmine.errors import InputError
from emsmine.mining.text.normalise import dedup_key, hash128
from emsmine.pipelines.direct import embed
from emsmine.pipelines.direct.embed import embed_file
from emsmine.pipelines.store import schemas

GERMAN = kit.PARALLEL["de"]
LINES = [
    *(text.encode() for text in GERMAN),
    b"",
    b"caf\xe9",
    b"  \xe2\x80\x8b ",
    GERMAN[0].encode(),
    b"Ein\xc2\xa0Haus. ",
]
TEXTS = [*GERMAN, "", "", "", GERMAN[0], "Ein Haus."]
UNUSABLE = [24, 25, 26]
DIM = 384

READERS: dict[str, Callable[[Path], npt.NDArray[Any]]] = {
    ".npy": lambda path: np.load(path),
    ".f32": lambda path: np.fromfile(path, "<f4").reshape(-1, DIM),
    ".bin": lambda path: np.fromfile(path, "<f4").reshape(-1, DIM),
    ".f16": lambda path: np.fromfile(path, "<f2").reshape(-1, DIM),
    ".NPY": lambda path: np.load(path),
}


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "a.de"
    path.write_bytes(b"".join(line + b"\n" for line in LINES))
    return path


@pytest.fixture(scope="module")
def expected() -> FloatArray:
    """Return the vectors of all lines, zeros where there is none."""
    return emsmine.load_encoder("ems:default", device="cpu").encode(TEXTS, lang="de")


@pytest.mark.parametrize("ending", READERS)
def test_row_i_is_the_vector_of_line_i(sentences: Path, tmp_path: Path, ending: str, expected: FloatArray) -> None:
    output = tmp_path / f"vectors{ending}"
    result = kit.emsmine("embed", sentences, "--lang", "deu", "-o", output)
    assert (result.code, result.out) == (0, "")
    vectors = READERS[ending](output)
    np.testing.assert_allclose(vectors, expected, atol=1e-3 if ending == ".f16" else 1e-6)
    assert np.flatnonzero(~(vectors != 0).any(axis=1)).tolist() == UNUSABLE
    counted = dict(line.split() for line in result.err.splitlines() if len(line.split()) == 2)
    assert counted == {"lines": "29", "vectors": "26", "empty": "2", "invalid_utf8": "1"}
    assert "3 of 29 lines have no vector and are rows of zeros" in result.err
    assert f"26 vectors of 384 by ems:default in {output}" in result.err
    # What the last line says how to read it works.
    how = result.err.splitlines()[-1].partition("read them: ")[2]
    assert eval(how, {"numpy": np, "emsmine": emsmine}).shape == (29, DIM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.de", output.name]


def test_parquet_leaves_out_lines_and_names_the_others(sentences: Path, tmp_path: Path, expected: FloatArray) -> None:
    output = tmp_path / "vectors.parquet"
    result = kit.emsmine("embed", sentences, "-o", output)
    assert result.code == 0, result.err
    assert "3 of 29 lines have no vector and are left out (sentence_id is the number of the line)" in result.err
    found = emsmine.read_embeddings(output)
    assert found.ids.tolist() == [line for line in range(29) if line not in UNUSABLE]
    np.testing.assert_allclose(found.vectors, expected[found.ids], atol=1e-3)
    hashes = [hash128(dedup_key(TEXTS[line])) for line in found.ids.tolist()]
    assert [row.tobytes() for row in found.text_hashes] == hashes
    table = pq.read_table(output)
    encoder = emsmine.load_encoder("ems:default", device="cpu")
    assert table.schema.equals(
        schemas.embeddings_schema(DIM, "ems:default", encoder.fingerprint()), check_metadata=True
    )


def test_the_vectors_and_hashes_are_those_of_a_run(tmp_path: Path, finished: Path) -> None:
    of_run = emsmine.Run(finished).embeddings("de")
    sentences = {row["sentence_id"]: row["text"] for row in kit.rows(finished, "sentences/deu_Latn")}
    path = tmp_path / "a.de"
    path.write_text("".join(f"{sentences[number]}\n" for number in of_run.ids.tolist()), encoding="utf-8")
    assert kit.emsmine("embed", path, "-o", tmp_path / "a.parquet").code == 0
    embedded = emsmine.read_embeddings(tmp_path / "a.parquet")
    assert embedded.vectors.tobytes() == of_run.vectors.tobytes()
    assert embedded.text_hashes.tobytes() == of_run.text_hashes.tobytes()


def test_compressed_files_and_stdin(sentences: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.de.gz"
    packed.write_bytes(gzip.compress(sentences.read_bytes()))
    outputs = [tmp_path / f"{number}.npy" for number in range(3)]
    calls: list[tuple[list[object], bytes]] = [
        ([sentences], b""),
        ([packed], b""),
        (["-", "-l", "de"], sentences.read_bytes()),
    ]
    for (args, stdin), output in zip(calls, outputs, strict=True):
        result = kit.emsmine("embed", *args, "-o", output, stdin=stdin)
        assert result.code == 0, result.err
    assert len({output.read_bytes() for output in outputs}) == 1


@pytest.mark.parametrize("ending", [".npy", ".f32", ".f16", ".parquet"])
@pytest.mark.parametrize("batch", [1, 7, 29])
def test_how_the_file_is_cut_changes_no_byte(
    sentences: Path, tmp_path: Path, ending: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = emsmine.load_encoder("ems:default", device="cpu")
    outputs = [str(tmp_path / f"{name}{ending}") for name in ("whole", "cut")]
    counts = [embed_file(str(sentences), "deu_Latn", encoder, outputs[0])]
    monkeypatch.setattr(embed, "_BATCH", batch)
    counts.append(embed_file(str(sentences), "deu_Latn", encoder, outputs[1]))
    assert Path(outputs[0]).read_bytes() == Path(outputs[1]).read_bytes()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("ending", [".npy", ".f32", ".parquet"])
def test_an_empty_file_gives_no_vectors(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.de").write_bytes(b"")
    output = tmp_path / f"a{ending}"
    assert kit.emsmine("embed", tmp_path / "a.de", "-o", output).code == 0
    shape = emsmine.read_embeddings(output).vectors.shape if ending == ".parquet" else READERS[ending](output).shape
    assert shape == (0, DIM)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["a.de"], 2, ["--output"]),
        (["a.de", "-o", "a.txt"], 2, ["it must end in .npy, .f32, .bin, .f16, .parquet"]),
        (["a.de", "-o", "a.npy.gz"], 2, ["it must end in .npy"]),
        (["a.de", "-o", "-"], 2, ["vectors are binary"]),
        (["a.de", "-o", "no/a.npy"], 2, ["no folder that exists"]),
        (["a.de", "-o", "a.de"], 2, ["which would be lost"]),
        (["a.npy", "-l", "de", "-o", "a.npy"], 2, ["which would be lost"]),
        (["a.txt", "-o", "a.npy"], 2, ["--lang (-l) must be given, as in -l de", "a.txt"]),
        (["-", "-o", "a.npy"], 2, ["--lang (-l) must be given"]),
        (["a.de", "-l", "german", "-o", "a.npy"], 2, ["did you mean de"]),
        (["a.de", "-o", "a.npy", "--encoder", "word2vec:x"], 2, ["'word2vec'"]),
        (["nowhere.de", "-o", "b.npy"], 1, ["nowhere.de"]),
        (["damaged.de.gz", "-o", "b.npy"], 1, ["damaged or cut short"]),
        (["a.de", "-o", "pipe.npy"], 2, ["is no plain file"]),
    ],
)
def test_wrong_use_leaves_what_was_there(
    sentences: Path, tmp_path: Path, args: list[str], code: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(b"old")
    Path("damaged.de.gz").write_bytes(gzip.compress(b"".join(LINES) * 100)[:-200])
    os.mkfifo("pipe.npy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = kit.emsmine("embed", *args)
    assert (result.code, result.out) == (code, "")
    for word in words:
        assert word in result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_swapped_language_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "a.en"
    path.write_text("".join(f"{text}\n" for text in GERMAN), encoding="utf-8")
    result = kit.emsmine("-q", "embed", path, "-o", tmp_path / "a.npy")
    assert (result.code, "looks like German (de)" in result.err) == (0, True)


class Broken:
    """An encoder that gives up, or gives no numbers, at some sentences."""

    name, dim = "broken:x", 2

    def fingerprint(self) -> str:
        return "broken"

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        if "fail" in sentences:
            raise InputError("encode: this one gives up")
        values = {"nan": np.nan, "inf": np.inf, "zero": 0.0}
        return np.array([[values.get(text, 1.0), 0] for text in sentences], dtype=np.float32).reshape(-1, 2)


@pytest.mark.parametrize("ending", [".npy", ".f32", ".parquet"])
def test_a_vector_that_is_no_number_is_a_line_without_one(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load_encoder", lambda spec, device: Broken())
    (tmp_path / "a.de").write_bytes(b"nan\na\nzero\ninf\n\nb\n")
    result = kit.emsmine("embed", tmp_path / "a.de", "-o", tmp_path / f"a{ending}")
    assert result.code == 0, result.err
    counted = dict(line.split() for line in result.err.splitlines() if len(line.split()) == 2)
    assert counted == {"lines": "6", "vectors": "2", "non_finite_vector": "2", "zero_vector": "1", "empty": "1"}
    if ending == ".parquet":
        assert emsmine.read_embeddings(tmp_path / "a.parquet").ids.tolist() == [1, 5]
    else:
        flat = (
            np.load(tmp_path / "a.npy") if ending == ".npy" else np.fromfile(tmp_path / "a.f32", "<f4").reshape(-1, 2)
        )
        assert flat.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("ending", [".npy", ".f32", ".parquet"])
def test_an_error_on_the_way_keeps_the_old_file(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_encoder", lambda spec, device: Broken())
    monkeypatch.setattr(embed, "_BATCH", 2)
    (tmp_path / "a.de").write_bytes(b"a\nb\nc\nfail\n")
    output = tmp_path / f"a{ending}"
    output.write_bytes(b"old")
    result = kit.emsmine("embed", tmp_path / "a.de", "-o", output)
    assert (result.code, result.err.splitlines()[-1]) == (1, "emsmine: error: encode: this one gives up")
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.de", output.name])


@pytest.mark.parametrize("kind", [".f32", ".parquet"])
def test_a_full_disk_is_named(sentences: Path, kind: str, tmp_path: Path) -> None:
    full = tmp_path / f"full{kind}"
    full.symlink_to("/dev/full")
    result = kit.emsmine("embed", sentences, "-o", full)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"emsmine: error: {full}: No space left on device")
    assert full.is_symlink()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold at most one batch of lines and vectors, whatever the file holds."""
    held: list[int] = []
    read = 0

    def counted(path: str) -> Iterator[bytes]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield b"line %d" % number

    class Watching(Broken):
        def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
            held.append(read - len(held) * 10)
            return super().encode(sentences, lang=lang)

    monkeypatch.setattr(embed, "read_lines", counted)
    monkeypatch.setattr(embed, "_BATCH", 10)
    counts = embed_file("x", "deu_Latn", Watching(), str(tmp_path / "a.npy"))
    assert counts == {"lines": 1000, "vectors": 1000}
    assert held == [10] * 100
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == (1000, 2)
