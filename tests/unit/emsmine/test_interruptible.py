"""Tests that interrupt a process work however the tests were started."""

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"


def test_an_ignored_interrupt_is_not_inherited() -> None:
    program = (
        "import runpy, signal, subprocess, sys\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
        f"runpy.run_path({str(CONFTEST)!r})\n"
        "child = 'import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)'\n"
        "subprocess.run([sys.executable, '-c', child])\n"
    )
    line = 'trap "" INT; exec "$0" -c "$1"'
    done = subprocess.run(["sh", "-c", line, sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
