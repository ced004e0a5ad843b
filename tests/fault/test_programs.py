"""The fault tests that are programs in C, over the daemon's own code: each prints its figures as its last line."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

import fault
from harness import BUILD, ROOT, SLOWNESS

PROGRAMS = sorted(path.stem for path in (ROOT / "tests/fault").glob("*.c"))


@pytest.mark.limit(1800)
@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program: str) -> None:
    environment = os.environ | {"TOLL_SEED": str(fault.SEED), "TOLL_LONG": str(int(fault.LONG))}
    done = subprocess.run([BUILD / "tests/fault" / program], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=1700 * SLOWNESS)
    lines = done.stdout.strip().splitlines() or [""]
    print(f"seed {fault.SEED}\n{lines[-1]}")
    assert done.returncode == 0, f"exit status {done.returncode}\n" + "\n".join(lines[-80:])
    figures = re.search(r"\blost (\d+) duplicated (\d+) wrong_totals (\d+)", lines[-1])
    assert figures and figures.groups() == ("0", "0", "0"), lines[-1]
