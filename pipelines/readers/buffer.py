"""Reading lines and blocks from a stream that may be damaged."""

import re
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
        self._start_positions: set[int] = set()
        self._untried: deque[int] = deque()  # of the starts: not yet compared with the pattern of `member_with`
        self._matching: deque[int] = deque()

    def _fill(self) -> bool:
        """Receive one more chunk; False at damage and at the end."""
        if self._damage or self._at_end:
            return False
        self._forget_starts(self.position)
        while self._ends and self._ends[0][0] < self.position:
            self._ends.popleft()
        item = self._stream.next_item()
        if item is None:
            self._at_end = True
        elif isinstance(item, Damage):
            self._damage = item
        else:
            if item.member >= 0 and (not self._starts or self._starts[-1][1] != item.member):
                self._start(item.member)
            self._bytes += item.content
            self._filled += len(item.content)
            if item.member_end >= 0 and not (self._ends and self._ends[-1][0] == self._filled):
                self._ends.append((self._filled, item.member_end))
            return True
        return False

    def _start(self, member: int) -> None:
        if self._filled in self._start_positions:  # the member before was empty
            self._starts.pop()
        else:
            self._start_positions.add(self._filled)
            self._untried.append(self._filled)
        self._starts.append((self._filled, member))

    def _forget_starts(self, position: int) -> None:
        """Forget all members but the one at `position` and those behind it."""
        while len(self._starts) > 1 and self._starts[1][0] <= position:
            self._start_positions.discard(self._starts.popleft()[0])
        while self._untried and self._untried[0] < position:
            self._untried.popleft()

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

    @property
    def is_damaged(self) -> bool:
        """Whether damage follows the bytes that `receive` got."""
        return self._damage is not None

    def receive(self, size: int) -> int:
        """Get up to `size` bytes ready and return how many of them there are: fewer only before damage or the end."""
        while len(self._bytes) < size and self._fill():
            pass
        return min(size, len(self._bytes))

    def at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes that start `offset` bytes ahead, without moving."""
        self.receive(offset + size)
        return bytes(self._bytes[offset : offset + size])

    def matches(self, pattern: re.Pattern[bytes], offset: int, size: int) -> bool:
        """Tell whether a pattern that needs up to `size` bytes matches `offset` bytes ahead."""
        return pattern.match(self.at(offset, size)) is not None

    def look_for(self, pattern: re.Pattern[bytes], begin: int, size: int) -> int:
        """Return how far ahead the next line starts that a pattern matches, from `begin` to `size` bytes, or -1."""
        searched = begin
        while True:
            found = self._first_match(pattern, searched, only_members=False)
            if found >= 0:
                return found
            searched = max(searched, len(self._bytes) - (1 << 10))
            if len(self._bytes) >= size or not self._fill():
                return -1

    def find(self, pattern: re.Pattern[bytes], size: int, *, only_members: bool) -> bool:
        """Move to the next line that a pattern matches, in bounded memory; False at the end of the file.

        Args:
            pattern: needs up to `size` bytes.
            size: bytes.
            only_members: whether the line must be the first of a gzip or zstd member.

        Raises:
            DamagedInput: damage comes first.
        """
        searched = 0
        while True:
            found = self._first_match(pattern, searched, only_members=only_members)
            if found >= 0:
                self._take(found)
                return True
            self._take(max(0, len(self._bytes) - size - 1))
            searched = min(1, len(self._bytes))  # the byte before tells whether a line starts there
            if not self._fill():
                self._raise_damage()
                return False

    def _first_match(self, pattern: re.Pattern[bytes], begin: int, *, only_members: bool) -> int:
        # A match keeps the bytes from being moved, so none may leave this method.
        for found in pattern.finditer(self._bytes, begin):
            place = found.start()
            is_line = not only_members and (place == 0 or self._bytes[place - 1] == 10)
            if is_line or self.member_starts_at(place):
                return place
        return -1

    def member_starts_at(self, offset: int) -> bool:
        """Tell whether a member begins `offset` bytes ahead."""
        return self.position + offset in self._start_positions

    def member_with(self, pattern: re.Pattern[bytes], size: int, pattern_size: int) -> int:
        """Return how far ahead the next member begins, within `size` bytes, that a pattern matches; -1 if none does.

        Each member is tried once, so that asking for every record of a file stays linear.

        Args:
            pattern: always the same one.
            size: bytes that were received.
            pattern_size: bytes that the pattern needs.
        """
        while self._untried and self._untried[0] < self.position + size:
            start = self._untried.popleft()
            if start > self.position and self.matches(pattern, start - self.position, pattern_size):
                self._matching.append(start)
        while self._matching and self._matching[0] <= self.position:
            self._matching.popleft()
        offset = self._matching[0] - self.position if self._matching else size
        return offset if offset < size else -1

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
        self._forget_starts(start)
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
