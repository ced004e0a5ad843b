"""The units as `make install` leaves them: systemd-analyze has nothing to say about them, and they fit what tolld does."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path
from typing import Iterator

import pytest

from harness import BUILD, ROOT, make_dir, remove_dir, run

UNITS = ("tolld.socket", "tolld.service")


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """An installation whose prefix is its place, because systemd-analyze looks whether ExecStart's program is there."""
    place = make_dir("u")
    run(["make", "-C", ROOT, "--no-print-directory", "install", f"BUILD={BUILD}", f"PREFIX={place}/usr"], seconds=300)
    yield place / "usr"
    remove_dir(place)


def verify(*units: Path) -> str:
    """What systemd-analyze says; it exits 0 on many mistakes, so words count too."""
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: install the package systemd"
    done = run(["systemd-analyze", "verify", "--man=no", *units], check=False)
    said = done.stdout + done.stderr
    return said or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(unit.read_text())
    return parser


def test_systemd_accepts_both_units(installed: Path) -> None:
    directory = installed / "lib/systemd/system"
    assert verify(*(directory / name for name in UNITS)) == ""


def test_verification_would_notice_a_mistake(installed: Path, tmp_path: Path) -> None:
    """So that the test above can fail."""
    for name in UNITS:
        shutil.copy(installed / "lib/systemd/system" / name, tmp_path / name)
    service = tmp_path / "tolld.service"
    service.write_text(service.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in verify(tmp_path / "tolld.socket", service)


def test_no_placeholder_is_left(installed: Path) -> None:
    for name in UNITS:
        assert "@" not in (installed / "lib/systemd/system" / name).read_text()


def test_units_fit_the_daemon(installed: Path) -> None:
    """Paths are the daemon's defaults, credentials are passed, and READY is awaited."""
    socket = read(installed / "lib/systemd/system/tolld.socket")["Socket"]
    service = read(installed / "lib/systemd/system/tolld.service")["Service"]
    assert socket["ListenDatagram"] == "/run/toll/toll.sock"
    assert socket["PassCredentials"] == "yes"
    assert service["Type"] == "notify"
    assert service["ExecStart"] == f"{installed}/sbin/tolld"
    assert (installed / "sbin/tolld").exists()
    assert service["StateDirectory"] == "toll" and service["RuntimeDirectory"] == "toll"
    assert service["RuntimeDirectoryPreserve"] == "yes", "else stopping the service removes the socket's path"
    assert {"2", "78"} == set(service["RestartPreventExitStatus"].split())
