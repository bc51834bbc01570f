"""Cuts, flips, garbage and bombs: every damage is reported, nothing crashes, memory stays bounded."""

import gzip
import hashlib
import random
import subprocess
import sys
import zlib
from base64 import b32encode
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem, Record

NUM_RECORDS = 8


def make_records(*, digest: bool = True) -> list[bytes]:
    generator = random.Random(7)
    records = []
    for number in range(NUM_RECORDS):
        words = " ".join(generator.choice(["Brot", "Wasser", "Salz", "Ofen", "Mehl"]) for _ in range(200))
        block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><p>{number} {words}</p></html>".encode()
        mark = f"WARC-Block-Digest: sha1:{b32encode(hashlib.sha1(block).digest()).decode()}\r\n" if digest else ""
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://x.example/{number}\r\n{mark}"
        records.append(f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n")
    return records


def packed(kind: str) -> list[bytes]:
    records = make_records()
    if kind == "warc":
        return records
    return [gzip.compress(record) if kind == "warc.gz" else zstandard.compress(record) for record in records]


def read(path: Path, content: bytes) -> tuple[list[Record], list[Problem]]:
    path.write_bytes(content)
    found = list(read_records(str(path), format="warc"))
    return [x for x in found if isinstance(x, Record)], [x for x in found if isinstance(x, Problem)]


@pytest.mark.parametrize("kind", ["warc", "warc.gz", "warc.zst"])
def test_every_cut_inside_a_record_is_reported(tmp_path: Path, kind: str) -> None:
    parts = packed(kind)
    content = b"".join(parts)
    boundaries = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    cuts = {random.Random(1).randrange(1, len(content)) for _ in range(200)}
    cuts |= {boundary - back for boundary in boundaries[1:] for back in range(1, 13)}  # trailers and checksums
    for cut in sorted(cuts - set(boundaries)):
        records, problems = read(tmp_path / f"a.{kind}", content[:cut])
        whole = sum(boundary <= cut for boundary in boundaries[1:])
        assert len(records) == whole, cut
        assert len(problems) == 1, (cut, problems)
        assert problems[0].offset <= cut


def test_cut_of_a_single_member_is_reported(tmp_path: Path) -> None:
    content = gzip.compress(b"".join(make_records()))
    for cut in random.Random(2).sample(range(2, len(content)), 100):
        records, problems = read(tmp_path / "a.warc.gz", content[:cut])
        assert "truncated" in [problem.reason for problem in problems], cut
        assert len(records) < NUM_RECORDS or cut > len(content) - 9


@pytest.mark.parametrize("kind", ["warc", "warc.gz"])
def test_flipped_bits_never_pass_silently(tmp_path: Path, kind: str) -> None:
    parts = packed(kind)
    content = b"".join(parts)
    sound, _ = read(tmp_path / f"a.{kind}", content)
    texts = {record.text for record in sound}
    generator = random.Random(3)
    silent = 0
    for _ in range(400):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        records, problems = read(tmp_path / f"a.{kind}", bytes(flipped))
        assert len(records) + len(problems) >= NUM_RECORDS - 1
        assert len(records) >= NUM_RECORDS - 2
        if kind == "warc.gz":  # every bit of the payload is under a checksum
            assert {record.text for record in records} <= texts
            assert problems or records == sound
        silent += not problems and {record.text for record in records} != texts
    assert silent == 0


def test_one_bad_member_loses_one_record(tmp_path: Path) -> None:
    parts = packed("warc.gz")
    for damage in (
        parts[3][:50] + b"\0\0\0" + parts[3][53:],
        parts[3][:-6],
        b"",
        b"rubbish",
        parts[3][:-8] + b"\1" * 8,
    ):
        records, problems = read(tmp_path / "a.warc.gz", b"".join([*parts[:3], damage, *parts[4:]]))
        assert [record.url[-1] for record in records] == list("0124567".replace("3", ""))
        assert len(problems) == (1 if damage else 0)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_trailing_garbage_and_cut_lines(tmp_path: Path, pack: object) -> None:
    content: bytes = pack(b'{"text": "eins"}\n{"text": "zwei"}\n')  # type: ignore[operator]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content + content + b"\0" * 10)
    assert len([x for x in read_records(str(path)) if isinstance(x, Record)]) == 4
    path.write_bytes(content + b"garbage")
    found = list(read_records(str(path)))
    assert [getattr(x, "reason", "ok") for x in found] == ["ok", "ok", "truncated"]
    path.write_bytes(content[:-3])
    assert [x.reason for x in read_records(str(path)) if isinstance(x, Problem)] == ["truncated"]


def test_zstd_window_limit(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(compressor.compress(b"Brot\n") + compressor.flush())
    assert [x.reason for x in read_records(str(path)) if isinstance(x, Problem)] == ["corrupt_compression"]


def test_damaged_parquet_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"Satz {n} vom Brot" for n in range(4000)]})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False)
    content = path.read_bytes()
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset + 200
    path.write_bytes(content[:middle] + b"\xaa" * 50 + content[middle + 50 :])
    found = list(read_records(str(path)))
    assert len(found) == 3001
    assert [(x.reason, x.offset) for x in found if isinstance(x, Problem)] == [("corrupt_parquet", 1000)]
    for cut in random.Random(4).sample(range(1, len(content)), 20):
        path.write_bytes(content[:cut])
        assert [x.reason for x in read_records(str(path)) if isinstance(x, Problem)] == ["corrupt_parquet"]


BOUNDED = """
import sys
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem
import emsmine.pipelines.readers.parquet
reasons = [x.reason if isinstance(x, Problem) else "ok" for x in read_records(sys.argv[1])]
status = open("/proc/self/status").read()  # getrusage would count the parent's memory at the fork
print(int(status.split("VmHWM:")[1].split()[0]) // 1024, ",".join(reasons))
"""


def zeros_gzip(num_bytes: int) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    block = b"\0" * (1 << 20)
    return b"".join([*(compressor.compress(block) for _ in range(num_bytes >> 20)), compressor.flush()])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("bomb.txt.gz", lambda: zeros_gzip(1 << 30), "line_too_long,decompression_bomb"),
        ("bomb.txt.zst", lambda: zstandard.compress(b"\0" * (1 << 28)), "decompression_bomb"),
        (
            "bomb.warc.gz",
            lambda: gzip.compress(make_records()[0]) + zeros_gzip(1 << 28),
            "ok,malformed_record,decompression_bomb",
        ),
        ("line.jsonl", lambda: b'{"text": "' + b"x" * 10_000_000 + b'"}\n{"text": "y"}\n', "line_too_long,ok"),
        ("line.txt", lambda: b"x" * 50_000_000 + b"\n\nBrot\n", "line_too_long,ok"),
    ],
)
def test_bombs_are_refused_in_bounded_memory(tmp_path: Path, name: str, make: object, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(make())  # type: ignore[operator]
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    megabytes, reasons = done.stdout.split()
    assert reasons == expected
    assert int(megabytes) < 300
