"""Whether the socket is read in groups: where batches may be old enough, and where the kernel's queue is long. A reload of batch.age changes it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Callable

import frames
from harness import Daemon, Sender, wait_until

# The kernel's own queue of datagrams is of a network namespace; sockets that are files are not.
LONG_QUEUE = ["unshare", "-n", "sh", "-c", 'echo 512 > /proc/sys/net/unix/max_dgram_qlen; exec "$@"', "sh"]
DATAGRAMS = 400
APART_S = 0.0004  # several to a group, and each by itself where it is read at once


def wakeups(daemon: Daemon) -> int:
    """How often the receive loop has waited."""
    status = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def wakeups_per_datagram(daemon: Daemon, sender: Sender, frames_each: int = 1) -> float:
    before = wakeups(daemon)
    for _ in range(DATAGRAMS):
        sender.send(*[frames.usage("unit", 1, account="a")] * frames_each)
        time.sleep(APART_S)
    return (wakeups(daemon) - before) / DATAGRAMS


def test_reload_of_batch_age_decides_how_the_socket_is_read(needs_root: None, daemon_factory: Callable[..., Daemon]) -> None:
    daemon = daemon_factory(None, config={"batch.age": "5ms"}, wrapper=LONG_QUEUE).start()
    with Sender(daemon.socket) as sender:
        for age, more in (("100ms", False), ("5ms", True), ("100ms", False)):
            first = wakeups_per_datagram(daemon, sender)
            daemon.write_config({"batch.age": age})
            daemon.send_signal(signal.SIGHUP)
            rate = 0.0

            def turned() -> bool:
                nonlocal rate
                rate = wakeups_per_datagram(daemon, sender)
                return rate > 1.3 * first if more else rate < 0.75 * first
            wait_until(turned, 20, f"the socket to be read {'at once' if more else 'in groups'}")
            print(f"batch.age {age}: {rate:.2f} wake-ups a datagram, {first:.2f} before")


def test_large_datagrams_are_read_at_once(needs_root: None, daemon_factory: Callable[..., Daemon]) -> None:
    daemon = daemon_factory(None, wrapper=LONG_QUEUE).start()
    with Sender(daemon.socket) as sender:
        def at_once() -> bool:  # after the group that small ones have begun
            small, large = wakeups_per_datagram(daemon, sender), wakeups_per_datagram(daemon, sender, 250)
            print(f"{small:.2f} wake-ups for a small datagram, {large:.2f} for a large one")
            return large > 1.3 * small
        wait_until(at_once, 20, "large datagrams to be read at once")
