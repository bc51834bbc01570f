"""Damaged copies of files, for the tests of what is read back."""

import random
from collections.abc import Iterator


def mutants(whole: bytes, number: int, seed: int = 0) -> Iterator[bytes]:
    """Yield different damaged copies of a file, always the same ones."""
    draw = random.Random(seed)
    for count in range(number):
        place, damaged = draw.randrange(len(whole)), bytearray(whole)
        kind = count % 10
        if kind < 6:
            damaged[place] ^= 1 << draw.randrange(8)
        elif kind == 6:
            del damaged[place]
        elif kind == 7:
            damaged.insert(place, draw.randrange(256))
        elif kind == 8:
            damaged = damaged[:place]
        else:
            damaged[place : place + 16] = bytes(len(damaged[place : place + 16]))
        if damaged != whole:
            yield bytes(damaged)
