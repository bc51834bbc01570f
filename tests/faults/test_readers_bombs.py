"""Small files that would stall or fill a machine: each is refused with a reason, in seconds and in bounded memory."""

import gzip
import json
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from emsmine.errors import InputError
from emsmine.pipelines.readers.body import BodyError
from emsmine.pipelines.readers.html import PageTooComplex, extract
from emsmine.pipelines.readers.pages import read_page
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Limits, Problem, Record
from emsmine.pipelines.readers.sandbox import sandbox

MIB = 1 << 20
MEASURE = """
import json, resource, sys, time
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem
from emsmine.pipelines.readers.sandbox import sandbox
started, reasons = time.process_time(), {}
for item in read_records(sys.argv[1]):
    reason = item.reason if isinstance(item, Problem) else "ok"
    reasons[reason] = reasons.get(reason, 0) + 1
sandbox().close()
seconds = time.process_time() - started + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(json.dumps([reasons, seconds, peak, child]))
"""


def warc(body: bytes, head: str = "", *, content_type: str = "text/html") -> bytes:
    """Return a response and a sound page behind it, each in a gzip member of its own."""
    content = b""
    for number, (payload, extra) in enumerate([(body, head), (b"<p>Brot und Salz</p>", "")]):
        block = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode() + payload
        lines = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://x.example/{number}\r\n"
        content += gzip.compress(f"{lines}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n", 1)
    return content


def html(unit: str, size: int = MIB) -> Callable[[Path], None]:
    return lambda path: write(path, warc((unit * (size // len(unit))).encode()))


def numbered(start: str, unit: str, count: int, end: str = ">x") -> Callable[[Path], None]:
    return lambda path: write(path, warc((start + "".join(unit.format(n) for n in range(count)) + end).encode()))


def body(make: Callable[[], bytes], head: str) -> Callable[[Path], None]:
    return lambda path: write(path, warc(make(), head))


def raw(make: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: write(path, make())


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def table(column: Callable[[], pa.Array], **options: object) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table({"text": column()}), path, compression="zstd", **options)


def big(compressor: object, size: int) -> bytes:
    block = b" " * MIB
    parts = [compressor.compress(block) for _ in range(size // MIB)]  # type: ignore[attr-defined]
    return b"".join([*parts, compressor.flush()])  # type: ignore[attr-defined]


def gzipped(size: int) -> bytes:
    return big(zlib.compressobj(wbits=31), size)


def brotlied(size: int) -> bytes:
    compressor = brotli.Compressor(quality=1)
    return b"".join([*(compressor.process(b" " * MIB) for _ in range(size // MIB)), compressor.finish()])


def zstd_window() -> bytes:
    settings = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return compressor.compress(b"Brot\n") + compressor.flush()


TOO_COMPLEX, DAMAGED = {"page_too_complex": 1, "ok": 1}, {"corrupt_compression": 1}
BOMBS: dict[str, tuple[str, Callable[[Path], None], dict[str, int]]] = {
    "tables": ("a.warc.gz", html("<table><tr><td>"), TOO_COMPLEX),
    "lists": ("a.warc.gz", html("<ul><li>"), TOO_COMPLEX),
    "definitions": ("a.warc.gz", html("<dl><dd>"), TOO_COMPLEX),
    "captions": ("a.warc.gz", html("<table><caption>"), TOO_COMPLEX),
    "forms": ("a.warc.gz", html("<form><div>", 4 * MIB), TOO_COMPLEX),
    "menus": ("a.warc.gz", html("<select><optgroup><option>", 4 * MIB), TOO_COMPLEX),
    "links in lists": ("a.warc.gz", html("<ul><a href=x>y", 2 * MIB), TOO_COMPLEX),
    "nobr": ("a.warc.gz", html("<nobr><div>", 4 * MIB), TOO_COMPLEX),
    "open formatting": ("a.warc.gz", html("<b><i><u><p></b>", 4 * MIB), TOO_COMPLEX),
    "below the few": ("a.warc.gz", html("<table><tr><td>", 1 << 14), {"ok": 1, "no_text": 1}),
    "asides with ends": (
        "a.warc.gz",
        lambda path: write(path, warc(b"<aside>x" * 9000 + b"</aside>" * 9000)),
        TOO_COMPLEX,
    ),
    "lists closed in a comment": (
        "a.warc.gz",
        lambda path: write(path, warc(b"<ul><li>" * 60_000 + b"<!--" + b"</ul>" * 60_000 + b"-->")),
        TOO_COMPLEX,
    ),
    "parser, unseen by counts": (
        "a.warc.gz",
        lambda path: write(path, warc(b"<form><div>" * 120_000 + b"<!--" + b"</form></div>" * 120_000 + b"-->")),
        TOO_COMPLEX,
    ),
    "attributes": ("a.warc.gz", numbered("<p ", "a{}=1 ", 500_000), TOO_COMPLEX),
    "attributes without values": ("a.warc.gz", numbered("<p ", "a{} ", 500_000), TOO_COMPLEX),
    "attributes of html": ("a.warc.gz", numbered("", "<html a{}=1>", 500_000, "x"), TOO_COMPLEX),
    "attributes, quotes": ("a.warc.gz", numbered("<p ", "a{}='>' ", 200_000), TOO_COMPLEX),
    "many tags": ("a.warc.gz", html("<p>x", 15 * MIB), TOO_COMPLEX),
    "huge page": (
        "a.warc.gz",
        lambda path: write(path, warc(random.Random(1).randbytes(10 * MIB).hex().encode())),
        TOO_COMPLEX,
    ),
    "gzip body": (
        "a.warc.gz",
        body(lambda: gzipped(1 << 28), "Content-Encoding: gzip\r\n"),
        {"decompression_bomb": 1, "ok": 1},
    ),
    "gzip of gzip": (
        "a.warc.gz",
        body(lambda: gzip.compress(gzipped(1 << 28)), "Content-Encoding: gzip, gzip\r\n"),
        {"decompression_bomb": 1, "ok": 1},
    ),
    "brotli body": (
        "a.warc.gz",
        body(lambda: brotlied(1 << 28), "Content-Encoding: br\r\n"),
        {"decompression_bomb": 1, "ok": 1},
    ),
    "zstd body": (
        "a.warc.gz",
        body(lambda: big(zstandard.ZstdCompressor().compressobj(), 1 << 29), "Content-Encoding: zstd\r\n"),
        {"decompression_bomb": 1, "ok": 1},
    ),
    "many codings": (
        "a.warc.gz",
        body(lambda: gzipped(MIB), "Content-Encoding: " + "gzip," * 9000 + "\r\n"),
        {"content_encoding": 1, "ok": 1},
    ),
    "chunks": (
        "a.warc.gz",
        body(lambda: b"1\r\na\r\n" * 1_500_000 + b"0\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
        {"decompression_bomb": 1, "ok": 1},
    ),
    "spaces before a charset": (
        "a.warc.gz",
        lambda path: write(path, warc(b"\xff" * 99, content_type="text/html; charset=" + " " * 60_000 + ";")),
        {"ok": 2},
    ),
    "spaces before a meta charset": (
        "a.warc.gz",
        body(lambda: b"<meta charset=" * 200 + b" " * 4000 + b">\xff" * 99, ""),
        {"ok": 2},
    ),
    "HTTP header lines": ("a.warc.gz", body(lambda: b"", "a:b\r\n" * 3_000_000), {"malformed_http": 1, "ok": 1}),
    "empty lines": (
        "a.warc.gz",
        lambda path: write(path, warc(b"\n" * (12 * MIB), content_type="text/plain")),
        {"no_text": 1, "ok": 1},
    ),
    "WARC header": ("a.warc", raw(lambda: b"WARC/1.0\r\n" + b"a:b\r\n" * 3_000_000), {"malformed_record": 1}),
    "WARC header line": ("a.warc", raw(lambda: b"WARC/1.0\r\na: " + b"b" * 30_000_000), {"malformed_record": 1}),
    "gzip file": ("a.txt.gz", raw(lambda: gzipped(1 << 28)), {"decompression_bomb": 1, "line_too_long": 1}),
    "zstd file": (
        "a.txt.zst",
        raw(lambda: big(zstandard.ZstdCompressor().compressobj(), 1 << 30)),
        {"decompression_bomb": 1},
    ),
    "zstd window": ("a.txt.zst", raw(zstd_window), DAMAGED),
    "gzip starts": ("a.txt.gz", raw(lambda: b"\x1f\x8b\x08" * 500_000), {"truncated": 100}),
    "zstd starts": (
        "a.txt.zst",
        raw(lambda: b"\x28\xb5\x2f\xfd" * 500_000),
        {"truncated": 1, "corrupt_compression": 1},
    ),
    "empty members": (
        "a.txt.gz",
        raw(lambda: gzip.compress(b"") * 100_000 + gzip.compress(b"Brot\n")),
        {"ok": 1},
    ),
    "deep JSON": ("a.jsonl", raw(lambda: b'{"a":' * 150_000 + b"\n"), {"invalid_json": 1}),
    "deep JSON lists": ("a.jsonl", raw(lambda: b'{"text":' + b"[" * 1_000_000 + b"\n"), {"invalid_json": 1}),
    "long JSON line": ("a.jsonl", raw(lambda: b'{"text": "' + b"x" * 50_000_000 + b'"}\n'), {"line_too_long": 1}),
    "huge JSON number": (
        "a.jsonl",
        raw(lambda: b'{"text": "a", "n": ' + b"9" * 1_000_000 + b"}\n"),
        {"invalid_json": 1},
    ),
    "long lines of text": (
        "a.txt.zst",
        raw(lambda: zstandard.compress((b"x " * 500_000 + b"\n") * 64)),
        {"decompression_bomb": 1},
    ),
    "Parquet cell": (
        "a.parquet",
        table(lambda: pa.array(["x" * (800 * MIB)]), use_dictionary=False, write_statistics=False),
        {"corrupt_parquet": 1},
    ),
    "Parquet dictionary": (
        "a.parquet",
        table(lambda: pa.array(["x" * MIB] * 500)),
        {"ok": 16, "decompression_bomb": 1},
    ),
    "Parquet deltas": (
        "a.parquet",
        table(lambda: pa.array(["x" * MIB] * 500), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"),
        {"ok": 16, "decompression_bomb": 1},
    ),
    "Parquet rows": (
        "a.parquet",
        table(lambda: pa.nulls(20_000_000, pa.string())),
        {"null_text": 131_073, "decompression_bomb": 1},
    ),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_seconds_and_bounded_memory(tmp_path: Path, bomb: str) -> None:
    name, make, expected = BOMBS[bomb]
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=True
    )
    reasons, seconds, peak, child = json.loads(done.stdout)
    print(f"{bomb}: {seconds:.1f} s, {peak} and {child} MiB")
    assert reasons == expected
    assert seconds < 5
    assert peak + child < 1024


def page(number: int, size: int) -> bytes:
    words = random.Random(number).choices(["Brot", "Wasser", "Salz", "Ofen", "Mehl"], k=size)
    return b"".join(f"<p>{word} <b>{index}</b></p>".encode() for index, word in enumerate(words))


def test_a_large_page_gives_the_same_in_the_child() -> None:
    markup = "<html lang=de>" + "<div class='weglot'>" + page(1, 9000).decode() + "ende"
    assert len(markup) > 1 << 16
    assert read_page(markup, Limits()) == extract(markup)
    assert sandbox()._process is not None, "the page was not parsed in the child"


def test_a_child_that_died_is_replaced() -> None:
    markup = page(2, 9000).decode()
    sound = read_page(markup, Limits())
    process = sandbox()._process
    assert process is not None
    process.kill()
    assert read_page(markup, Limits()) == sound
    with pytest.raises(BodyError, match=r"it took too much processor time") as raised:
        read_page(markup * 12, Limits(max_parse_seconds=0.05))
    assert raised.value.reason == "page_too_complex"
    assert read_page(markup, Limits()) == sound


def test_the_child_keeps_to_the_memory_of_each_request() -> None:
    markup = page(3, 9000).decode()
    with pytest.raises(BodyError, match=r"memory|parser ended"):
        read_page(markup * 12, Limits(max_parse_bytes=20 * MIB))
    assert read_page(markup, Limits()).text


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom emsmine.pipelines.readers.pages import read_page\n"
        "from emsmine.pipelines.readers.records import Limits\nfrom emsmine.pipelines.readers.sandbox import sandbox\n"
        "read_page('<p>Brot' * 20000, Limits())\nprint(sandbox()._process.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        parent.kill()
    deadline = time.monotonic() + 20
    while child.exists() and "Z" not in (child / "stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_rows_behind_a_group_that_kills_the_child_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    groups = [["eins", "zwei"], ["x" * (400 * MIB)], ["drei"]]
    with pq.ParquetWriter(
        path, pa.schema([("text", pa.string())]), use_dictionary=False, write_statistics=False
    ) as writer:
        for texts in groups:
            writer.write_table(pa.table({"text": texts}))
    found = list(read_records(str(path), limits=Limits(max_parse_bytes=300 * MIB)))
    assert [x.text if isinstance(x, Record) else (x.reason, x.offset) for x in found] == [
        "eins",
        "zwei",
        ("corrupt_parquet", 2),
        "drei",
    ]


def test_a_parquet_file_left_early_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"Satz {n}" for n in range(5000)]}), path)
    next(iter(read_records(str(path))))
    assert len(list(read_records(str(path)))) == 5000


def test_mutants_of_parquet_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"Satz {n} vom Brot" * (n % 9) for n in range(900)]}), path, row_group_size=300)
    content = path.read_bytes()
    generator = random.Random(5)
    for _ in range(60):
        mutant = bytearray(content)
        for _ in range(3):
            mutant[generator.randrange(len(mutant))] ^= 1 << generator.randrange(8)
        path.write_bytes(mutant)
        try:
            found = list(read_records(str(path)))
        except InputError:
            continue  # the name of the column is gone
        assert len(found) == 900 or any(isinstance(x, Problem) for x in found)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst", "a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_bytes_are_reported_as_they_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = [json.dumps({"text": page(n, 60).hex()}).encode() + b"\n" for n in range(200)]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": [line.decode() for line in lines], "n": list(range(200))}), path)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
        path.write_bytes(pack(warc_file(200) if "warc" in name else b"".join(lines)))  # type: ignore[operator]
    reported: list[int] = []
    items = list(read_records(str(path), on_bytes=reported.append))
    assert items == list(read_records(str(path)))
    assert all(size > 0 for size in reported)
    assert sum(reported) == path.stat().st_size
    if path.stat().st_size > 1 << 18:
        assert len(reported) > 1


def warc_file(count: int) -> bytes:
    return b"".join(gzip.decompress(warc(page(n, 300))) for n in range(count))


def test_refusals_count_work_and_not_time() -> None:
    deep = "<div>" * 600 + "<ul><li>x" + "</div>" * 600 + "<i>y</i>" * 5000
    with pytest.raises(PageTooComplex, match="more than 512 deep"):
        extract(deep)
    assert extract(deep.replace("<div>", "").replace("</div>", "")).text.startswith("x")
    few = "<div>" * 600 + "<ul><li>x" + "</div>" * 600
    assert extract(few).text == "x"
