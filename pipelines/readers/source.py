"""Opening files, local or remote, and what a reader is given of one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from emsmine.errors import InputError, MissingDependencyError
from emsmine.pipelines.readers.buffer import Buffer
from emsmine.pipelines.readers.records import Limits
from emsmine.pipelines.readers.stream import MemberStream, PlainStream

_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "hdfs": "pyarrow"}
_DRIVERS |= {"http": "aiohttp requests", "https": "aiohttp requests", "hf": "huggingface_hub"}


def open_binary(path: str) -> BinaryIO:
    """Open a local path or an fsspec URL (`s3://`, `gs://`, `hdfs://`, ...) for reading bytes.

    Raises:
        InputError: there is no such file, it cannot be read, or fsspec does not know the scheme.
        MissingDependencyError: the driver of the scheme is not installed; the message has the pip line.
    """
    scheme = path.partition("://")[0].lower() if "://" in path else ""
    try:
        if scheme in ("", "file"):
            return open(url2pathname(urlsplit(path).path) if scheme else path, "rb")
        import fsspec

        return cast(BinaryIO, fsspec.open(path, "rb").open())
    except FileNotFoundError:
        raise InputError(f"read: there is no file {path!r}; check the path") from None
    except IsADirectoryError:
        raise InputError(f"read: {path!r} is a directory; give the files in it, such as {path}/*.warc.gz") from None
    except ImportError as error:
        package = _DRIVERS.get(scheme, "fsspec[full]")
        message = f"read: {scheme}:// needs a driver ({error}); install it with: pip install {package}"
        raise MissingDependencyError(message) from None
    except (OSError, ValueError) as error:
        raise InputError(f"read: cannot open {path!r}: {error}") from error


class CountedFile:
    """A file that tells how far it was read; what is read a second time does not count."""

    def __init__(self, raw: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._raw, self._on_bytes = raw, on_bytes
        self._farthest = self._reported = 0
        self._size = raw.seek(0, os.SEEK_END)
        raw.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read, and report the bytes that were not read before."""
        content = self._raw.read(size)
        end = self._raw.tell()
        begin = end - len(content)
        if begin > self._farthest:  # a jump, as to the footer of a Parquet file and over its columns
            self._report(len(content))
        elif end > self._farthest:
            self._report(end - self._farthest)
            self._farthest = end
        return content

    def report_rest(self) -> None:
        """Report what nobody asked for, now that the file was read to its end."""
        self._report(self._size)

    def _report(self, size: int) -> None:
        size = min(size, self._size - self._reported)
        if size > 0:
            self._reported += size
            self._on_bytes(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; this reads nothing."""
        return self._raw.seek(offset, whence)

    def seekable(self) -> bool:
        """Tell whether `seek` works."""
        return self._raw.seekable()


@dataclass(frozen=True)
class Source:
    """A file that is open at its start, for the reader of its format.

    Args:
        path: as the user gave it.
        raw: its bytes as stored.
        codec: `gzip`, `zstd` or `` (none).
        limits: bounds on sizes.
        text_field: name of the text field or column.
        url_field: name of the URL field or column.
    """

    path: str
    raw: BinaryIO
    codec: str
    limits: Limits
    text_field: str = "text"
    url_field: str = "url"

    def buffer(self) -> Buffer:
        """Return the decompressed content, to be read once from its start to its end."""
        return Buffer(MemberStream(self.raw, self.codec, self.limits) if self.codec else PlainStream(self.raw))

    def report_rest(self) -> None:
        """Count as read what the reader, being done, had no need to read."""
        counted: object = self.raw
        if isinstance(counted, CountedFile):
            counted.report_rest()
