"""Reading lines and blocks from a stream that may be damaged."""

from collections import deque

from emsmine.pipelines.readers.stream import Damage, Stream


class DamagedInput(Exception):
    """The bytes asked for are damaged. `Buffer.recover` moves behind the damage."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage.detail)
        self.damage = damage


class LineTooLong(Exception):
    """A line was longer than allowed, and was skipped to its end; `head` is its start."""

    def __init__(self, head: bytes, length: int) -> None:
        super().__init__(f"{length} bytes")
        self.head, self.length = head, length


class Buffer:
    """A window on the decompressed bytes of a file.

    `position` is the offset in the decompressed stream of the next byte. Damage is raised when the reading reaches it,
    after everything before it was handed out; bytes that were read of an unfinished line or block stay until `recover`.
    """

    def __init__(self, stream: Stream) -> None:
        self.position = 0
        self._stream = stream
        self._bytes = bytearray()
        self._damage: Damage | None = None
        self._at_end = False
        self._filled = 0  # decompressed bytes received
        self._starts: deque[tuple[int, int]] = deque()  # (position, stored offset) of the members
        self._ends: deque[tuple[int, int]] = deque()

    def _fill(self) -> bool:
        """Receive one more chunk; False at damage and at the end."""
        if self._damage or self._at_end:
            return False
        while len(self._starts) > 1 and self._starts[1][0] <= self.position:
            self._starts.popleft()
        while self._ends and self._ends[0][0] < self.position:
            self._ends.popleft()
        item = self._stream.next_item()
        if item is None:
            self._at_end = True
        elif isinstance(item, Damage):
            self._damage = item
        else:
            if item.member >= 0 and (not self._starts or self._starts[-1][1] != item.member):
                self._starts.append((self._filled, item.member))
            self._bytes += item.content
            self._filled += len(item.content)
            if item.member_end >= 0:
                self._ends.append((self._filled, item.member_end))
            return True
        return False

    def _take(self, size: int) -> bytes:
        with memoryview(self._bytes) as view:  # slicing the bytearray first would copy twice
            content = bytes(view[:size])
        del self._bytes[:size]
        self.position += len(content)
        return content

    def _raise_damage(self) -> None:
        if self._damage:
            raise DamagedInput(self._damage)

    def peek(self, size: int) -> bytes:
        """Return up to `size` of the next bytes without moving."""
        while len(self._bytes) < size and self._fill():
            pass
        return bytes(self._bytes[:size])

    def readline(self, limit: int) -> bytes:
        """Return the next line with its `\\n`; at the end of the file one without it, or nothing.

        Raises:
            DamagedInput: the line is cut short by damage.
            LineTooLong: it has more than `limit` bytes; the next call returns the line after it.
        """
        searched = 0
        while (found := self._bytes.find(b"\n", searched)) < 0:
            searched = len(self._bytes)
            if searched > limit:
                self._skip_line()
            if not self._fill():
                self._raise_damage()
                found = len(self._bytes) - 1
                break
        if found >= limit + 1:
            raise LineTooLong(self._take(found + 1)[: 1 << 12], found + 1)
        return self._take(found + 1)

    def _skip_line(self) -> None:
        start, head = self.position, bytes(self._bytes[: 1 << 12])
        while (found := self._bytes.find(b"\n")) < 0:
            self._take(len(self._bytes))
            if not self._fill():
                break
        self._take(found + 1)
        raise LineTooLong(head, self.position - start)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the file.

        Raises:
            DamagedInput: damage comes first.
        """
        while len(self._bytes) < size and self._fill():
            pass
        if len(self._bytes) < size:
            self._raise_damage()
        return self._take(size)

    def skip(self, size: int) -> int:
        """Move over `size` bytes in bounded memory and return how many there were.

        Raises:
            DamagedInput: damage comes first.
        """
        left = size
        while left > 0 and (self._bytes or self._fill()):
            left -= len(self._take(min(left, len(self._bytes))))
        if left > 0:
            self._raise_damage()
        return size - left

    def push_back(self, content: bytes) -> None:
        """Put bytes that were just read back."""
        self._bytes[:0] = content
        self.position -= len(content)

    def stored_offset(self) -> int:
        """Return the stored offset of the member that starts at `position`, or `position` if none does."""
        return next((stored for start, stored in reversed(self._starts) if start == self.position), self.position)

    def stored_span(self, start: int, end: int) -> tuple[int, int] | None:
        """Return (stored offset, stored length) if exactly one sound member holds the bytes from `start` to `end`.

        Reads on to the end of the member, so that its checksum has been compared.

        Raises:
            DamagedInput: the member that holds these bytes is damaged.
        """
        while len(self._starts) > 1 and self._starts[1][0] <= start:
            self._starts.popleft()
        while self._ends and self._ends[0][0] <= start:
            self._ends.popleft()
        while not self._bytes and not self._ends and self._starts and self._fill():
            pass
        if self._damage and not self._bytes and self._starts and self._damage.member == self._starts[0][1]:
            raise DamagedInput(self._damage)
        if self._starts and self._ends and (self._starts[0][0], self._ends[0][0]) == (start, end):
            return self._starts[0][1], self._ends[0][1] - self._starts[0][1]
        return None

    def recover(self) -> Damage | None:
        """Drop what is left before the damage that was reached, and go on behind it."""
        damage = self._damage
        if damage:
            self._take(len(self._bytes))
            self._damage = None
        return damage
