"""How much memory this machine can still give, asked before much is taken.

Linux gives memory before it has it and kills what then takes it; a refusal beforehand is the only message there is.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_NO_LIMIT = 1 << 60
"""Control groups without a limit say `max`, or a number near 2^63."""


def available_memory(
    proc: Path = Path("/proc"), control_groups: Path = Path("/sys/fs/cgroup")
) -> tuple[int | None, str]:
    """Return how many bytes processes may still take, and who says so.

    It is `MemAvailable`, or what a control group of this process leaves if that is less. Swap does not count.

    Args:
        proc: where the process file system is mounted.
        control_groups: where control groups are mounted, of version 1 or 2.
    """
    found: list[tuple[int, str]] = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append((int(line.split()[1]) << 10, "MemAvailable"))
    for folder in _memory_groups(proc, control_groups):
        left = _left_in_group(folder)
        if left is not None:
            found.append((left, f"the memory limit in {folder}"))
    return min(found) if found else (None, "unknown")


def _memory_groups(proc: Path, control_groups: Path) -> Iterator[Path]:
    """List the control groups that this process is in; a limit of any of them holds."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = control_groups / "memory" if controllers else control_groups
        group = PurePosixPath(path)
        # In a container the path may be the one outside, and its mount the group itself: the root covers that.
        for folder in (group, *group.parents):
            yield root / folder.relative_to("/")


def _left_in_group(folder: Path) -> int | None:
    """Return what a control group leaves, None without a limit. Cached pages of files can be given up, so are left."""
    for limit_name, used_name, cached_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _text(folder / limit_name).strip(), _text(folder / used_name).strip()
        if not limit.isdecimal() or not used.isdecimal() or int(limit) >= _NO_LIMIT:
            continue
        cached = [
            int(line.split()[1])
            for line in _text(folder / "memory.stat").splitlines()
            if line.startswith(f"{cached_name} ")
        ]
        return max(0, int(limit) - int(used) + sum(cached))
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def shortage(needed: int, available: int | None = None) -> str:
    """Return how a need exceeds what there is, as part of a message; "" if it does not, or nobody knows.

    Args:
        needed: bytes that are certainly taken; an estimate that may be too high would refuse what fits.
        available: bytes that there are; None: what this machine can give to processes.
    """
    source = "free on the device"
    if available is None:
        available, source = available_memory()
    if available is None or needed <= available:
        return ""
    return f"at least {_gib(needed)} of memory, and there are {_gib(available)} ({source})"


def _gib(size: int) -> str:
    # Decimal digits, not a float: a size read from a file may have hundreds.
    return f"{size >> 30:,} GiB" if size >> 30 < 10**15 else f"10^{len(str(size >> 30)) - 1} GiB"
