"""`make bench`: how fast toll is, beside what PostgreSQL can do and what others do, in one run on a PostgreSQL of its own.

    bench.py [--size short|long|tiny] [--rounds N] [--only PATTERN] [--json FILE] [SECTION …]

--only: of the contenders of a section only those whose names match, a regular expression.

Prints progress, then a table, and writes the same as JSON. Ratios are printed, never asserted; exit status 1 means that rows were
missing or wrong, or that something else went wrong. README.md says what each line means."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import report
from frame import SIZES, Bench
from stage import Stage, WrongRows

SECTIONS = ("load", "idle", "record", "memory", "drain", "daemons", "growth", "rating", "credit", "wallets")


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all where none is named")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    names = [each for each in SECTIONS if each in options.sections or not options.sections]
    modules: dict[str, Any] = {name: importlib.import_module(f"{name}_section") for name in names}

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server goes, too
    size = SIZES[options.size]
    if options.rounds:
        size = dataclasses.replace(size, rounds=options.rounds, growth_rounds=min(options.rounds, size.growth_rounds))
    began = time.monotonic()
    stage = Stage()
    status = 0
    try:
        stage.open()
        bench = Bench(stage, size, {name: module.SECONDS[options.size] for name, module in modules.items()}, options.only)
        about = report.machine(bench)
        for name, module in modules.items():
            bench.begin(name)
            try:
                module.run(bench)
            except Exception as error:  # what was measured before is worth its table all the same
                if not isinstance(error, WrongRows):
                    traceback.print_exc()
                bench.wrong.append(f"the rest of section {name}: {type(error).__name__}: {error}")
        seconds = time.monotonic() - began
        print(f"\n{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, PostgreSQL {about['postgresql']}, fsync"
              f" {about['fsync_us']['median']:.0f} us, socket queue {about['max_dgram_qlen']}; {len(bench.lines)} lines, {seconds:.0f} s\n")
        if bench.lines:
            print(report.table(bench.lines))
        for each in bench.absent:
            print(f"left out: {each}")
        for each in bench.wrong:
            print(f"WRONG: {each}")
        status = 1 if bench.wrong else 0
        if options.json:
            options.json.write_text(report.as_json(bench, about, seconds))
            print(f"\nall of it, with every round: {options.json}")
    finally:
        stage.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
