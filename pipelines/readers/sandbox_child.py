"""The child of `sandbox`: `python -m emsmine.pipelines.readers.sandbox_child PARENT`."""

import ctypes
import io
import os
import signal
import sys
from dataclasses import asdict
from typing import Any, BinaryIO, cast

from emsmine.errors import InputError
from emsmine.pipelines.readers import html
from emsmine.pipelines.readers.records import Limits, Problem
from emsmine.pipelines.readers.sandbox import OUT_OF_MEMORY, read_message, write_message

_PR_SET_PDEATHSIG = 1


class _RemoteFile(io.RawIOBase):
    """A file that the parent holds open, so that the child needs neither its name nor its credentials."""

    def __init__(self, reading: BinaryIO, writing: BinaryIO, size: int) -> None:
        self._reading, self._writing, self._size = reading, writing, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size < 0 else min(size, left)
        write_message(self._writing, {"read": [self._position, size]})
        self._writing.flush()
        message = read_message(self._reading)
        if message is None:
            os._exit(1)
        self._position += len(message[1])
        return message[1]


def _html(body: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        page = html.extract(body.decode("utf-8", "surrogatepass"))
    except html.PageTooComplex as error:
        return {"too_complex": str(error)}, b""
    return {"lang": page.lang, "mt_hints": page.mt_hints}, page.text.encode("utf-8", "surrogatepass")


def _parquet(request: dict[str, Any], reading: BinaryIO, writing: BinaryIO) -> None:
    from emsmine.pipelines.readers.parquet import Group, read_rows

    limits = Limits(**request["limits"])
    file = cast(BinaryIO, _RemoteFile(reading, writing, request["size"]))
    rows = read_rows(
        file,
        request["path"],
        limits,
        text_field=request["text_field"],
        url_field=request["url_field"],
        first_group=request["first_group"],
    )
    try:
        for item in rows:
            if isinstance(item, Group):
                write_message(writing, {"group": asdict(item)})
                writing.flush()  # the decoding of a batch is what may kill this process
                _limit_time(limits.max_parse_seconds)
            else:
                fields = {name: getattr(item, name) for name in item.__slots__}  # asdict takes ten times as long
                write_message(writing, {"problem" if isinstance(item, Problem) else "record": fields})
    except InputError as error:
        write_message(writing, {"input_error": str(error)})
    write_message(writing, {"end": True})


def _limit_time(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(size: int) -> None:
    if sys.platform == "linux":  # elsewhere RLIMIT_DATA does not count what malloc maps
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def main() -> None:
    """Answer requests until the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of the parent
    reading = sys.stdin.buffer
    writing = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # whatever a library prints must not get between the messages
    is_limited = False
    while message := read_message(reading):
        request, body = message
        if not is_limited:
            _limit_memory(request["memory"])
            is_limited = True
        _limit_time(request["seconds"])
        try:
            if "parquet" in request:
                _parquet(request["parquet"], reading, writing)
            else:
                write_message(writing, *_html(body))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        _limit_time(0)
        writing.flush()


if __name__ == "__main__":
    main()
