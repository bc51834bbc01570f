"""Lines of files, whatever compressed them and whatever they are called."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from emsmine.errors import InputError
from emsmine.lines import compression_of, plain_name, unpacked_lines

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
ENDINGS = {"gzip": ".gz", "zstd": ".zst", "bzip2": ".bz2", "xz": ".xz"}
LINES = [f"line {n}".encode() for n in range(5000)]
TEXT = b"\n".join(LINES)
NAMES = ["a", "a.de", "a.gz", "a.zst", "a.bz2", "a.xz"]


class Trickle(io.RawIOBase):
    """A pipe whose writer is slow: a few bytes a read, and no seeking."""

    def __init__(self, content: bytes) -> None:
        self._parts = iter([content[start : start + 3] for start in range(0, len(content), 3)])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        part = next(self._parts, b"")
        buffer[: len(part)] = part
        return len(part)


def lines(content: bytes, name: str = "a") -> list[bytes]:
    return list(unpacked_lines(io.BytesIO(content), name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_content_tells_the_compression_not_the_name(name: str, end: bytes) -> None:
    assert lines(TEXT + end, name) == LINES
    for pack in PACK.values():
        assert lines(pack(TEXT[:7777]) + pack(TEXT[7777:] + end), name) == LINES


@pytest.mark.parametrize("kind", PACK)
def test_a_slow_pipe_gives_the_same_lines(kind: str) -> None:
    content = PACK[kind](b"\n".join(LINES[:200]))
    assert list(unpacked_lines(io.BufferedReader(Trickle(content)), "stdin")) == LINES[:200]
    assert list(unpacked_lines(io.BufferedReader(Trickle(b"one\ntwo")), "stdin")) == [b"one", b"two"]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-5],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:20],
        lambda packed: packed + b"garbage behind it",
        lambda packed: packed + b"\x01" + packed,
        lambda packed: packed + packed[: len(packed) // 2],
        lambda packed: bytes([packed[0] ^ 0x80]) + packed[1:],
    ],
    ids=["end", "half", "start", "garbage", "byte-between", "second-half", "magic"],
)
def test_damage_is_an_error_not_a_shorter_list(kind: str, damage: Callable[[bytes], bytes]) -> None:
    name = f"folder/a.tsv{ENDINGS[kind]}"
    with pytest.raises(InputError, match="damaged or cut short") as caught:
        lines(damage(PACK[kind](TEXT)), name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", PACK)
def test_nothing_packed_is_no_line(kind: str) -> None:
    assert lines(PACK[kind](b"")) == []
    assert lines(b"", f"a{ENDINGS[kind]}") == []


def test_padding_of_xz_is_no_damage() -> None:
    assert lines(lzma.compress(b"one\n") + bytes(8) + lzma.compress(b"two") + bytes(4)) == [b"one", b"two"]


def test_a_skippable_frame_may_come_first() -> None:
    assert lines(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstandard.compress(b"one\ntwo")) == [b"one", b"two"]


@pytest.mark.parametrize("text", ["BZh", "BZh9 is a label\nx", "P*M", "(µ/ý", "ä\nb", "\ufeffone\ntwo"])
def test_text_that_looks_like_a_compression_is_text(text: str) -> None:
    assert lines(text.encode("utf-8")) == text.encode("utf-8").split(b"\n")
    assert compression_of(text.encode("utf-8")) == ""


def test_a_cut_character_in_the_head_is_text() -> None:
    line = b"a" * 511 + "ä".encode()
    assert lines(line + b"\nb", "a.gz") == [line, b"b"]


def test_a_failing_disk_is_not_called_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 600:
                raise OSError(5, "Input/output error", "disk")
            return super().read(min(size or 600, 300))

    content = gzip.compress(bytes(range(256)) * 50, compresslevel=0)
    with pytest.raises(OSError, match="Input/output error"):
        list(unpacked_lines(Broken(content), "a.gz"))


def test_memory_does_not_grow_with_what_a_bomb_unfolds_to() -> None:
    import tracemalloc

    # 256 MiB of short lines in a few kilobytes.
    for kind in ("zstd", "bzip2"):
        packed = PACK[kind](b"x\n" * (1 << 23))
        tracemalloc.start()
        count = sum(1 for _ in unpacked_lines(io.BytesIO(packed), "a"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 1 << 23
        assert peak < 100 << 20, kind


@pytest.mark.parametrize(
    ("path", "plain"), [("a.de.gz", "a.de"), ("a.ZST", "a"), ("x.gz/a.de", "x.gz/a.de"), ("gz", "gz"), ("a.xz", "a")]
)
def test_plain_name(path: str, plain: str) -> None:
    assert plain_name(path) == plain


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    content = "one\u2028still one\x0b\x85\r\ntwo\rtwo\n\nlast".encode()
    found: Iterator[bytes] = unpacked_lines(io.BytesIO(content), "a")
    assert list(found) == ["one\u2028still one\x0b\x85".encode(), b"two\rtwo", b"", b"last"]
