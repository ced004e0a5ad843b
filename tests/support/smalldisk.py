"""A small file system for tests: a tmpfs that goes away with the process that holds it. Needs root.

It is mounted in a name space of its own, so a test that is killed leaves no mount behind; everybody else reaches it by `path`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import proc


class SmallDisk:
    """size: as mount(8) takes it for a tmpfs, such as "16m"."""

    def __init__(self, size: str) -> None:
        self._point = proc.make_dir("disk")
        script = 'mount -t tmpfs -o size="$1" toll "$0" && chmod 755 "$0" && echo ready && exec sleep 3600'
        self._holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(self._point), size],
                                        stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout
        if self._holder.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError("no private tmpfs could be mounted")
        self.path = Path(f"/proc/{self._holder.pid}/root{self._point}")

    @property
    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Somebody else takes all that is left, or all but so many bytes."""
        with (self.path / "ballast").open("ab", buffering=0) as file:
            try:
                while self.free > leave:
                    file.write(bytes(max(4096, min(1 << 16, (self.free - leave) // 4096 * 4096))))
            except OSError:
                pass

    def relieve(self) -> None:
        """Somebody else deletes it again."""
        (self.path / "ballast").unlink()

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()
        proc.remove_dir(self._point)
