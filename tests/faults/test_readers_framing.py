"""A wrong Content-Length costs its own record: one problem, and every sound record behind it is yielded."""

import gzip
import hashlib
import subprocess
import sys
from base64 import b32encode
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from emsmine.pipelines.readers.framing import parse_headers
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Limits, Problem, Record

NUM_RECORDS = 7


def block_of(number: int, kind: str) -> bytes:
    text = f"Seite {number} ueber Brot und Salz. " * (3 + number)
    if kind == "wet":
        return f"{text}\n\nEin zweiter Absatz.\n".encode()
    body = f"<html>\r\n\r\n<p>{text}</p>\r\n\r\n</html>"
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def record(number: int, kind: str, *, length: str | None = "", digest: bool = False, block: bytes = b"") -> bytes:
    """Return a record; `length` replaces the right Content-Length, None leaves the line out."""
    block = block or block_of(number, kind)
    lines = ["WARC/1.0", f"WARC-Type: {'conversion' if kind == 'wet' else 'response'}"]
    lines.append(f"WARC-Target-URI: https://x.example/{number}")
    if digest:
        lines.append(f"WARC-Block-Digest: sha1:{b32encode(hashlib.sha1(block).digest()).decode()}")
    if length is not None:
        lines.append(f"Content-Length: {length or len(block)}")
    return "\r\n".join([*lines, "", ""]).encode() + block + b"\r\n\r\n"


def one_gzip(parts: list[bytes]) -> bytes:
    return gzip.compress(b"".join(parts))


PACKS: dict[str, Callable[[list[bytes]], bytes]] = {
    "plain": b"".join,
    "gzip each": lambda parts: b"".join(map(gzip.compress, parts)),
    "gzip whole": one_gzip,
    "gzip blocks": lambda parts: b"".join(
        gzip.compress(b"".join(parts)[n : n + 300]) for n in range(0, len(b"".join(parts)), 300)
    ),
    "zstd each": lambda parts: b"".join(map(zstandard.compress, parts)),
    "zstd whole": lambda parts: zstandard.compress(b"".join(parts)),
}
LENGTHS: dict[str, Callable[[int], str | None]] = {
    "3 too large": lambda size: str(size + 3),
    "200 too large": lambda size: str(size + 200),
    "beyond the file": lambda size: str(size + 50_000),
    "beyond the limit": lambda size: str(1 << 30),
    "huge": lambda size: str(10**18 - 1),
    "1 too small": lambda size: str(size - 1),
    "200 too small": lambda size: str(size - 40),
    "zero": lambda size: "0",
    "negative": lambda size: "-5",
    "missing": lambda size: None,
    "not a number": lambda size: "12a",
    "overflowing": lambda size: "9" * 40,
}


def read(path: Path, content: bytes, **limits: int) -> tuple[list[str], list[Problem]]:
    path.write_bytes(content)
    found = list(read_records(str(path), format="warc", limits=Limits(**limits)))
    return [x.url[-1] for x in found if isinstance(x, Record)], [x for x in found if isinstance(x, Problem)]


@pytest.mark.parametrize("kind", ["warc", "wet"])
@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("damage", LENGTHS)
def test_a_wrong_length_costs_one_record(tmp_path: Path, damage: str, pack: str, kind: str) -> None:
    for bad in ([0], [3], [NUM_RECORDS - 1], [2, 3], [5, 6]):
        parts = [record(n, kind) for n in range(NUM_RECORDS)]
        for number in bad:
            parts[number] = record(number, kind, length=LENGTHS[damage](len(block_of(number, kind))))
        urls, problems = read(tmp_path / "a", PACKS[pack](parts))
        assert urls == [str(n) for n in range(NUM_RECORDS) if n not in bad], bad
        assert len(problems) == len(bad), (bad, problems)
        assert {problem.reason for problem in problems} <= {"malformed_record", "truncated"}


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("digest", [True, False], ids=["digest", "HTTP length"])
def test_a_length_that_covers_whole_records_is_found_out(tmp_path: Path, pack: str, digest: bool) -> None:
    for covered in (1, 3):
        parts = [record(n, "warc", digest=digest) for n in range(NUM_RECORDS)]
        size = len(b"".join(parts[2 : 3 + covered])) - parts[2].index(b"\r\n\r\n") - 8
        head = parts[2].replace(f"Content-Length: {len(block_of(2, 'warc'))}\r\n\r\nHTTP".encode(), b"@", 1)
        parts[2] = head.replace(b"@", f"Content-Length: {size}\r\n\r\nHTTP".encode())
        urls, problems = read(tmp_path / "a", PACKS[pack](parts))
        assert urls == list("013456"), covered
        assert [problem.reason for problem in problems] == ["malformed_record"]


@pytest.mark.parametrize("pack", PACKS)
def test_a_length_that_ends_at_a_blank_line_of_the_body_is_found_out(tmp_path: Path, pack: str) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    parts[2] = record(2, "warc", length=str(block_of(2, "warc").index(b"\r\n\r\n")))
    urls, problems = read(tmp_path / "a", PACKS[pack](parts))
    assert (urls, len(problems)) == (list("013456"), 1)


EMBEDDED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nWARC/1.0 is a format:\r\n\r\n" + record(9, "warc") * 3


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("digest", [True, False])
def test_records_inside_a_sound_record_are_its_text(tmp_path: Path, pack: str, digest: bool) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    parts[3] = record(3, "warc", block=EMBEDDED, digest=digest)
    urls, problems = read(tmp_path / "a", PACKS[pack](parts))
    assert (urls, problems) == (list("0123456"), [])


@pytest.mark.parametrize("pack", ["gzip each", "zstd each"])
@pytest.mark.parametrize("length", ["7", "100000", None, str(1 << 40)])
def test_records_inside_a_damaged_record_stay_in_its_member(tmp_path: Path, pack: str, length: str | None) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    parts[3] = record(3, "warc", block=EMBEDDED, length=length)
    urls, problems = read(tmp_path / "a", PACKS[pack](parts))
    assert (urls, len(problems)) == (list("012456"), 1)


@pytest.mark.parametrize("pack", PACKS)
def test_a_sound_record_over_the_limit_is_skipped_with_what_is_inside(tmp_path: Path, pack: str) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    for number in (1, 2, 5):
        parts[number] = record(number, "warc", block=EMBEDDED + b"x" * 3000)
    urls, problems = read(tmp_path / "a", PACKS[pack](parts), max_record_bytes=2500)
    assert urls == list("0346")
    assert [problem.reason for problem in problems] == ["record_too_large"] * 3


@pytest.mark.parametrize("pack", ["plain", "gzip whole", "zstd whole"])
def test_false_claims_over_the_limit_are_told_from_true_ones(tmp_path: Path, pack: str) -> None:
    parts = [record(n, "warc", block=block_of(n, "warc") + b"x" * 400) for n in range(NUM_RECORDS)]
    for number in (0, 2, 3):
        parts[number] = record(number, "warc", block=block_of(number, "warc") + b"x" * 400, length=str(1900 + number))
    parts[5] = record(5, "warc", block=EMBEDDED + b"x" * 3000)
    urls, problems = read(tmp_path / "a", PACKS[pack](parts), max_record_bytes=1500)
    assert urls == list("146")
    assert [problem.reason for problem in problems] == ["malformed_record"] * 3 + ["record_too_large"]


@pytest.mark.parametrize("pack", ["plain", "gzip whole"])
def test_a_header_that_breaks_off_does_not_take_the_next(tmp_path: Path, pack: str) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    for cut in (len(b"WARC/1.0\r\n"), len(b"WARC/1.0\r\nWARC-Type: response\r\n")):
        parts[3] = record(3, "warc")[:cut]
        urls, problems = read(tmp_path / "a", PACKS[pack](parts))
        assert (urls, len(problems)) == (list("012456"), 1)


@pytest.mark.parametrize("place", range(4))
def test_damaged_line_ends_do_not_take_the_next_record(tmp_path: Path, place: int) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    end = bytearray(b"\r\n\r\n")
    end[place] ^= 1
    parts[3] = parts[3][:-4] + bytes(end)
    urls, problems = read(tmp_path / "a", b"".join(parts))
    assert (urls, len(problems)) == (list("012456"), 1)


def test_a_damaged_header_does_not_take_the_record_before(tmp_path: Path) -> None:
    for start in (b"WXRC/1.0", b"", b"WARC/1.0\r\n\r\n"):
        parts = [record(n, "warc") for n in range(NUM_RECORDS)]
        parts[3] = start + parts[3][8:]
        urls, problems = read(tmp_path / "a", b"".join(parts))
        assert (urls, len(problems)) == (list("012456"), 1), start


def test_damage_in_one_member_does_not_hide_the_records_before_it(tmp_path: Path) -> None:
    parts = [record(n, "warc") for n in range(NUM_RECORDS)]
    parts[1] = record(1, "warc", length="3000")
    packed = one_gzip(parts[:5])
    content = packed[:-8] + b"\0" * 8 + b"".join(map(gzip.compress, parts[5:]))
    urls, problems = read(tmp_path / "a", content)
    assert urls[:3] == list("023")
    assert urls[-2:] == list("56")
    assert [problem.reason for problem in problems] == ["malformed_record", "corrupt_compression"]


STORM = """
import sys, time
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem
started = time.process_time()
found = list(read_records(sys.argv[1], format="warc"))
status = open("/proc/self/status").read()
problems = sum(isinstance(item, Problem) for item in found)
print(len(found), problems, time.process_time() - started, int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
@pytest.mark.parametrize("pack", ["plain", "gzip each", "gzip whole", "zstd whole"])
@pytest.mark.parametrize("length", ["1000000", "60000000", "70000000", "999999999999"])
def test_many_wrong_lengths_take_linear_time(tmp_path: Path, pack: str, length: str) -> None:
    parts = [record(n % 7, "warc", length=str(int(length) + n) if n % 3 else "") for n in range(6000)]
    path = tmp_path / "a"
    path.write_bytes(PACKS[pack](parts))
    done = subprocess.run([sys.executable, "-c", STORM, str(path)], capture_output=True, text=True, check=True)
    num_items, num_problems, seconds, megabytes = map(float, done.stdout.split())
    assert (num_items, num_problems) == (6000, 4000)
    assert seconds < 5
    assert megabytes < 300


def test_headers_are_read_leniently() -> None:
    assert parse_headers([b"A: 1\r\n", b"a: 2\r\n", b"no colon\r\n"]) == {"a": "1"}
