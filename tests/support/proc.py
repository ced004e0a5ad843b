"""What every part of the harness needs: where things are, bounded waits, and directories that go away again.

Knows nothing of toll, PostgreSQL or pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, Mapping, Sequence, TypeVar

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TOLL_BUILD", ROOT / "build")).resolve()
SLOWNESS = float(os.environ.get("TOLL_SLOWNESS", "1"))  # tests/run.sh raises it under a sanitizer
PATIENCE = 3    # with a machine that does much else
QUICK_S = 5.0   # less than that is asked for where it is expected to pass

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], seconds: float = 10, what: str = "", every: float = 0.02) -> T:
    """Calls predicate until it returns something true, and returns that; TimeoutError after the given seconds.

    The time is multiplied by SLOWNESS, and by PATIENCE if it is not a short one: it is a limit that a broken program reaches, never a sleep.
    """
    limit = seconds * SLOWNESS * (PATIENCE if seconds >= QUICK_S else 1)
    deadline = time.monotonic() + limit
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"still waiting after {limit:g} s for {what or predicate}")
        time.sleep(every)


def make_dir(name: str = "", where: str = os.environ.get("TOLL_TMP", "/tmp")) -> Path:
    """A new directory with a short path (a Unix socket's path has at most 107 bytes) that every user may pass through."""
    path = Path(tempfile.mkdtemp(prefix=f"toll-{name}", dir=where))
    path.chmod(0o755)
    return path


def remove_dir(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def run(command: Sequence[str | Path], *, check: bool = True, seconds: float = 60, env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, its output captured. With check a failure raises with that output in the message."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, cwd=cwd, timeout=seconds * SLOWNESS, input=text_in,
                          stdin=subprocess.DEVNULL if text_in is None else None, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def tail(path: Path, lines: int = 60) -> str:
    """The last lines of a text file; empty when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def rss_bytes(pid: int) -> int:
    """A process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
