"""Pages whose commands are run as a test: each ```sh block in turn, in one shell; a ```text block after it is what it must print.

Names that differ from run to run (UUIDs, times, days) count as equal. TOLL_UPDATE_PAGE=1 writes what was printed into the page."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?", re.M | re.S)
VARYING = [(re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
           (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:?\d\d)?|Z)?"), "TIME"), (re.compile(r"\b20\d\d-\d\d-\d\d\b"), "DAY")]
END = "--- end of block ---"


@dataclass
class Block:
    line: int
    commands: str
    wanted: str | None
    printed: str


def normal(text: str) -> str:
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run(page: Path, env: dict[str, str], directory: Path, seconds: float) -> list[Block]:
    """Runs all of it; a command that fails ends it with an assertion that says where."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    script = "set -euo pipefail\n" + "".join(f"{match['commands']}\necho '{END}'\n" for match in found)
    done = subprocess.run(["bash", "-c", script], cwd=directory, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=seconds)
    printed = done.stdout.split(END + "\n")
    blocks = [Block(text.count("\n", 0, match.start()) + 1, match["commands"], match["output"], output)
              for match, output in zip(found, printed)]
    if done.returncode != 0:
        raise AssertionError(f"{page}:{blocks[-1].line}: {blocks[-1].commands}\n{blocks[-1].printed}")
    if os.environ.get("TOLL_UPDATE_PAGE"):
        outputs = iter(printed)

        def with_output(match: re.Match[str]) -> str:
            output = "\n".join(line.rstrip() for line in next(outputs).strip("\n").splitlines())
            return f"```sh\n{match['commands']}```\n" + (f"```text\n{output}\n```\n" if output else "")
        page.write_text(BLOCK.sub(with_output, text))
    return blocks


def differences(blocks: list[Block]) -> list[str]:
    return [f"line {block.line}: it shows\n{normal(block.wanted or '')}\nbut it printed\n{normal(block.printed)}"
            for block in blocks if normal(block.wanted or "") != normal(block.printed)]
