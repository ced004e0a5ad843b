"""`make install`: what lands where, and that a stranger's program builds against it with pkg-config and needs libc only."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Callable, Iterator

import pytest

from harness import BUILD, Daemon, Database, ROOT, make_dir, remove_dir, run

SANITIZED = "TOLL_SLOWNESS" in os.environ  # set by tests/run.sh for a sanitizer's build: the library then needs its runtime


@pytest.fixture(scope="module")
def destdir() -> Iterator[Path]:
    place = make_dir("i")
    make("install", place)
    yield place
    remove_dir(place)


def make(target: str, destdir: Path) -> str:
    return run(["make", "-C", ROOT, "--no-print-directory", target, f"BUILD={BUILD}", f"DESTDIR={destdir}", "PREFIX=/usr"],
               seconds=300).stdout


def pkg_config(destdir: Path, *words: str) -> list[str]:
    """pkg-config as a package builder uses it: the files below destdir, paths as if destdir were the root."""
    env = {**os.environ, "PKG_CONFIG_PATH": f"{destdir}/usr/lib/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": str(destdir),
           "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1", "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1"}
    return run(["pkg-config", *words, "toll"], env=env).stdout.split()


def needed_libraries(binary: Path) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run(["readelf", "-d", binary]).stdout))


@pytest.mark.parametrize("path", [
    "sbin/tolld", "bin/tollctl", "bin/tollsim", "include/toll.h", "lib/libtoll.a", "lib/libtoll.so.0", "lib/libtoll.so",
    "lib/pkgconfig/toll.pc", "lib/systemd/system/tolld.service", "lib/systemd/system/tolld.socket", "lib/sysctl.d/50-toll.conf", "share/toll/sql/roles.sql",
    "share/toll/seed/providers.csv", "share/toll/seed/tariff_rub.csv", "share/man/man1/tollctl.1", "share/man/man1/tollsim.1",
    "share/man/man3/toll.3", "share/man/man3/toll_open.3", "share/man/man3/toll_id_format.3", "share/man/man5/tolld.conf.5", "share/man/man8/tolld.8"])
def test_file_is_installed(destdir: Path, path: str) -> None:
    assert (destdir / "usr" / path).exists()


def test_nothing_outside_destdir_and_prefix(destdir: Path) -> None:
    assert [each.name for each in destdir.iterdir()] == ["usr"]


def test_installed_texts_do_not_know_destdir(destdir: Path) -> None:
    for path in ("lib/pkgconfig/toll.pc", "lib/systemd/system/tolld.service"):
        text = (destdir / "usr" / path).read_text()
        assert str(destdir) not in text and "@" not in text.replace("@@", "")


def test_installed_programs_run(destdir: Path) -> None:
    for program in ("sbin/tolld", "bin/tollctl", "bin/tollsim"):
        assert run([destdir / "usr" / program, "--help"]).stdout


def test_version_is_one(destdir: Path) -> None:
    version = pkg_config(destdir, "--modversion")[0]
    assert version in run([destdir / "usr/sbin/tolld", "--version"]).stdout


def test_shared_library_needs_libc_only(destdir: Path) -> None:
    if SANITIZED:
        assert "libc.so.6" in needed_libraries(destdir / "usr/lib/libtoll.so.0")
        return
    assert needed_libraries(destdir / "usr/lib/libtoll.so.0") <= {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_shared_library_shows_only_its_own_names(destdir: Path) -> None:
    names = [line.split()[-1] for line in run(["nm", "-D", "--defined-only", destdir / "usr/lib/libtoll.so.0"]).stdout.splitlines()]
    mine = {name for name in names if name.startswith("toll_")}
    assert "toll_open" in mine
    assert SANITIZED or set(names) == mine


@pytest.mark.parametrize("how", ["shared", "static"])
def test_minimal_program_builds_and_records_a_call(destdir: Path, daemon_factory: Callable[..., Daemon], db: Database, how: str) -> None:
    """The README's promise to worker authors: one header, one small library, `cc minimal.c $(pkg-config --cflags --libs toll)`."""
    program = destdir.parent / f"{destdir.name}-minimal-{how}"
    flags = pkg_config(destdir, "--cflags", "--libs")
    sanitize = re.findall(r"-fsanitize=\S+", os.environ.get("SANITIZE", ""))
    if how == "static":
        flags = [flag for flag in flags if flag != "-ltoll"] + [f"{destdir}/usr/lib/libtoll.a"]
    try:
        run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", *sanitize, "-o", program, ROOT / "client/examples/minimal.c", *flags])
        needed = needed_libraries(program)
        assert SANITIZED or needed <= {"libc.so.6", "libtoll.so.0"}
        assert ("libtoll.so.0" in needed) == (how == "shared")
        daemon = daemon_factory(db.dsn).start()
        run([program], env={**daemon.environment(), "LD_LIBRARY_PATH": f"{destdir}/usr/lib"})
        daemon.wait_stored(1)
        sessions = db.query("SELECT session_id, ended_at FROM billing_sessions")
        assert len(sessions) == 1 and isinstance(uuid.UUID(str(sessions[0][0])), uuid.UUID)
        assert sessions[0][1] is not None, "the example ends its call"
    finally:
        program.unlink(missing_ok=True)


def test_uninstall_leaves_nothing(destdir: Path) -> None:
    make("uninstall", destdir)
    left = [str(each.relative_to(destdir)) for each in destdir.rglob("*") if not each.is_dir()]
    make("install", destdir)
    assert left == []
