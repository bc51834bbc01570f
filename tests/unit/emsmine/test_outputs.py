"""Single output files: what is refused before the work, and what stays as it was."""

import bz2
import errno
import gzip
import lzma
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from emsmine.errors import ConfigError
from emsmine.outputs import check_output_folder, check_outputs, is_same_file, open_output, write_output

TEXT = "1.2\tä\tb\n".encode() * 1000
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": lambda packed: zstandard.ZstdDecompressor().decompress(packed),
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".GZ": gzip.decompress,
    ".tsv": bytes,
    "": bytes,
}


@pytest.mark.parametrize("ending", UNPACK)
def test_the_ending_of_the_name_compresses(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    write_output(TEXT, str(path))
    first = path.read_bytes()
    assert UNPACK[ending](first) == TEXT
    write_output(TEXT, str(path))
    assert path.read_bytes() == first, "the same content gives the same bytes"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"),
        (".", "is a folder"),
        ("..", "is a folder"),
        ("folder", "is a folder"),
        ("new/", "is a folder"),
        ("no/out.tsv", "no folder that exists; create it"),
        ("file/out.tsv", "no folder that exists"),
        ("s3://bucket/out.tsv", "is a URL"),
        ("loop", "leads to itself"),
        ("/dev/nothing-here", "files are not made there"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=words):
        check_outputs("mine", {"--output": name}, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_are_looked_at_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigError, match="may not be written to"):
        check_outputs("mine", {"--output": str(tmp_path / "out")}, [])
    tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    "spelling",
    ["in.de", "./in.de", "folder/../in.de", "folder/up/in.de", "link", "link-of-link", "hard", "ABSOLUTE"],
)
def test_no_spelling_of_an_input_is_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.de").write_bytes(b"precious\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/up").symlink_to("..")
    (tmp_path / "link").symlink_to("in.de")
    (tmp_path / "link-of-link").symlink_to("folder/up/link")
    os.link(tmp_path / "in.de", tmp_path / "hard")
    name = str(tmp_path / "in.de") if spelling == "ABSOLUTE" else spelling
    assert is_same_file(name, "in.de")
    for inputs in (["in.de"], ["-", "other.en", "in.de"]):
        with pytest.raises(ConfigError, match=r"is the input in\.de, which would be lost"):
            check_outputs("mine", {"--output": "-", "--suspicious": name}, inputs)
    check_outputs("mine", {"--output": name}, ["-", "s3://bucket/in.de", "other.en"])


def test_outputs_are_files_of_their_own(tmp_path: Path) -> None:
    there = str(tmp_path / "out.tsv")
    for outputs in ({"-o": "-", "-s": None}, {"-o": there, "-s": "-"}, {"-o": there, "-s": f"{there}2"}):
        check_outputs("mine", outputs, [])
    (tmp_path / "link").symlink_to("out.tsv")
    for left, right in (("-", "-"), (there, there), (there, f"{tmp_path}/./out.tsv"), (there, str(tmp_path / "link"))):
        with pytest.raises(ConfigError, match="a file of its own"):
            check_outputs("mine", {"-o": left, "-s": right}, [])


def test_devices_may_be_read_and_written() -> None:
    check_outputs("mine", {"--output": "/dev/null"}, ["/dev/null"])
    before = os.stat("/dev/null")
    write_output(TEXT, "/dev/null")
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_rdev, before.st_ino) == (after.st_rdev, after.st_ino)


def test_a_full_device_names_itself() -> None:
    with pytest.raises(OSError, match="No space") as caught:
        write_output(TEXT, "/dev/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_outputs("mine", {"--output": str(pipe)}, [])
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_output(TEXT, str(pipe))
    reader.join(10)
    assert received == [TEXT]
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "data/out.tsv", tmp_path / "link.tsv"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("data/out.tsv")
    check_outputs("mine", {"--output": str(link)}, [])
    write_output(TEXT, str(link))
    assert link.is_symlink()
    assert target.read_bytes() == TEXT
    assert not target.is_symlink()


def test_permissions_of_a_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_output(TEXT, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_dev_stdout_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "from emsmine.outputs import write_output; write_output(b'b', '/dev/stdout')"
    check_outputs("mine", {"--output": "/dev/stdout"}, [])
    done = subprocess.run(
        ["sh", "-c", f'(printf a; "$0" -c "$1"; printf c) >> {out}', sys.executable, program],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr, out.read_text()) == (0, "", "abc")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.tsv"
    path.write_bytes(b"old")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refuse)
            with pytest.raises(OSError, match="No space") as caught:
                write_output(TEXT, str(path))
        assert caught.value.filename == str(path)
        assert [item.name for item in tmp_path.iterdir()] == ["out.tsv"]
        assert path.read_bytes() == b"old"


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".tsv")
    write_output(TEXT, str(path))
    assert path.read_bytes() == TEXT


@pytest.mark.parametrize(
    ("folder", "path", "refused"),
    [
        ("out", "in.txt", False),
        ("out", "out/in.txt", False),
        ("out", "out/export/de-en.tsv", True),
        ("out", "out/checkpoint-7.pt", True),
        ("out", "out", True),
        (".", "in.txt", False),
        (".", "crawl/in.txt", False),
        (".", "export/in.txt", True),
        (".", ".", True),
        ("link", "out/export/de-en.tsv", True),
        ("out", "link/export/de-en.tsv", True),
        ("out", "x/../out/export", True),
        ("out", "s3://out/export/de-en.tsv", False),
        ("out", "", False),
    ],
)
def test_results_never_lie_among_the_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, path: str, refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "x").mkdir()
    (tmp_path / "out").mkdir()
    if not refused:
        check_output_folder("run", "--output", folder, [path], ["export", "checkpoint-*"])
        return
    with pytest.raises(ConfigError, match="name another folder for the results"):
        check_output_folder("run", "--output", folder, [path], ["export", "checkpoint-*"])


@pytest.mark.parametrize("exists", [True, False])
def test_what_is_written_piece_by_piece_appears_at_the_end(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "data/out.bin", tmp_path / "link.bin"
    target.parent.mkdir()
    link.symlink_to(target)
    if exists:
        target.write_bytes(b"old")
        target.chmod(0o640)
    with open_output(str(link)) as stream:
        for _ in range(300):
            stream.write(TEXT)
        assert (target.read_bytes() if exists else target.exists()) == (b"old" if exists else False)
        stream.seek(0)
        stream.write(b"9")
    assert target.read_bytes() == b"9" + (TEXT * 300)[1:]
    assert link.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["out.bin"]
    assert not exists or stat.S_IMODE(target.stat().st_mode) == 0o640


def test_what_is_written_piece_by_piece_is_dropped_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fill(error: Exception | None) -> None:
        with open_output(str(path)) as stream:
            stream.write(TEXT * 300)
            if error:
                raise error

    # An error that is not one of this file keeps its own name.
    for error in (ValueError("x"), OSError(errno.EIO, "Input/output error", "input.de")):
        with pytest.raises(type(error)) as caught:
            fill(error)
        assert caught.value is error
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, lambda *args: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
            with pytest.raises(OSError, match="No space") as full:
                fill(None)
        assert full.value.filename == str(path)
    assert [item.name for item in tmp_path.iterdir()] == ["out.bin"]
    assert path.read_bytes() == b"old"
    with pytest.raises(OSError, match="No space") as full, open_output("/dev/full") as stream:
        stream.write(TEXT * 300)
    assert full.value.filename == "/dev/full"
