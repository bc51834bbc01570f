"""A child process for C parsers that cannot be interrupted or bounded from Python: large HTML pages, Parquet files.

A page of 1 MB can keep an HTML parser busy for minutes, and a Parquet file of 33 kB can hold a cell of 1 GiB. The child
has a limit on its memory and on the processor time of each answer; one that goes over it dies and is replaced, and what
it was asked for is a counted problem. Counted limits come first: these two are the net below them.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from typing import Any

_HEAD = struct.Struct("<II")
# For a machine that is so busy that the child gets no processor time, or a file system that hangs.
_WALL_SECONDS = 300.0

Message = tuple[dict[str, Any], bytes]


class SandboxError(Exception):
    """The child died over a request; the message says how, as in "…: it took more than 4 s"."""


class Sandbox:
    """A child process that answers requests, started with the first and replaced when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = 0

    def send(self, header: dict[str, Any], body: bytes = b"", *, first: bool = True) -> None:
        """Send a message; the first of a request goes to a new child if the last one died meanwhile.

        Args:
            header: the first of a request has `memory` (bytes) and `seconds`.
            body: bytes.
            first: whether a request starts here.

        Raises:
            SandboxError: the child died over an earlier message of this request.
        """
        if first and header["memory"] != self._memory:  # a limit can only be lowered
            self.close()
            self._memory = header["memory"]
        for is_retry in (False, True):
            process = self._process if self._process and not first else self._alive()
            try:
                assert process.stdin is not None
                write_message(process.stdin, header, body)
                process.stdin.flush()
                return
            except OSError:
                if not first or is_retry:
                    raise SandboxError(self._fate()) from None
                self.close()

    def receive(self) -> Message:
        """Return the next message of the child.

        Raises:
            SandboxError: it died.
        """
        assert self._process is not None
        deadline = time.monotonic() + _WALL_SECONDS
        length, size = _HEAD.unpack(self._read(_HEAD.size, deadline))
        return json.loads(self._read(length, deadline)), self._read(size, deadline)

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process:
            process.kill()
            with contextlib.suppress(OSError):  # what was not flushed can no longer be
                process.communicate()

    def _alive(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            environment |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "emsmine.pipelines.readers.sandbox_child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                bufsize=1 << 16,
            )
        return self._process

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        content = bytearray()
        while len(content) < size:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(descriptor, size - len(content)) if ready else b""
            if not piece:
                raise SandboxError(self._fate() if ready else self._overdue())
            content += piece
        return bytes(content)

    def _overdue(self) -> str:
        self.close()
        return f"it gave no answer in {_WALL_SECONDS:.0f} s"

    def _fate(self) -> str:
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process:
                process.wait(timeout=10)
        code = process.returncode if process else None
        self.close()
        if code == -signal.SIGPROF:
            return "it took too much processor time"
        if code == OUT_OF_MEMORY:
            return "it took too much memory"
        return f"the parser ended with {signal.Signals(-code).name if code and code < 0 else code}"


OUT_OF_MEMORY = 77


def write_message(stream: Any, header: dict[str, Any], body: bytes = b"") -> None:
    """Write a message: the lengths of its header (JSON) and its body, then both."""
    content = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(_HEAD.pack(len(content), len(body)) + content)
    stream.write(body)


def read_message(stream: Any) -> Message | None:
    """Read a message; None at the end of the stream."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, size = _HEAD.unpack(head)
    return json.loads(stream.read(length).decode("utf-8", "surrogatepass")), stream.read(size)


_sandboxes: dict[int, Sandbox] = {}


def sandbox() -> Sandbox:
    """Return the child of this process."""
    if os.getpid() not in _sandboxes:  # a fork must not talk to the child of its parent
        _sandboxes[os.getpid()] = Sandbox()
        atexit.register(_sandboxes[os.getpid()].close)
    return _sandboxes[os.getpid()]
