"""A state directory in use twice: mounted doubly, copied to another machine, or restored beside the original on what passes for the same one.

One directory has one daemon. A copy that says which machine it comes from becomes a journal of its own at its start; one that does not (a
virtual machine's snapshot keeps the machine id) is found out by the database, before either daemon takes the other's progress for its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from pathlib import Path
from typing import Callable

import pytest

import fault
import oracle
from harness import Daemon, Database, StreamSender, frames
from outage import Outage

CONFIG = {"journal.segment_bytes": 131072, "journal.min_free_bytes": 0, "database.retry_max": "200ms", "batch.age": "10ms"}
# Words in front of a command: what it sees as /etc/machine-id is the file of that name.
AS_MACHINE = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /etc/machine-id && exec "$@"']
# The same for a second path to a directory.
MOUNTED = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"']

Factory = Callable[..., Daemon]


def journal_uuid(daemon: Daemon) -> uuid.UUID:
    return uuid.UUID(bytes=(daemon.state / "journal" / "identity").read_bytes()[20:36])


def copy_state(original: Daemon, copy: Daemon) -> None:
    """As a snapshot has it: all at one moment, the lock not held."""
    frozen = original.running
    if frozen:
        original.freeze()
    shutil.rmtree(copy.state)
    shutil.copytree(original.state, copy.state)
    if frozen:
        original.thaw()


def refused(second: Daemon) -> bool:
    """Starting it ends with a word on why."""
    second.start(ready_seconds=0)
    assert second.wait() == 1
    return f"another tolld is running on this state directory: stop it, or give this one its own (TOLL_STATE_DIR) path={second.state}" \
        in second.log_text()


def test_second_daemon_on_it(daemon_factory: Factory, db: Database, scratch: Path) -> None:
    """Refused, by whatever path it comes; the first one goes on as if nothing were."""
    fault.rng("second daemon")
    ledger, first, count = oracle.Ledger(), daemon_factory(db.dsn, config=CONFIG).start(), 0
    (scratch / "link").symlink_to(first.state)
    (scratch / "mounted").mkdir()
    with StreamSender(first.socket) as worker:
        for path in (first.state, scratch / "link", *([scratch / "mounted"] if os.geteuid() == 0 else [])):
            for same_sockets in (False, True):
                second = daemon_factory(db.dsn, config=CONFIG)
                second.state = path
                if path.name == "mounted":
                    second.wrapper = [*MOUNTED, str(first.state), str(path)]
                if same_sockets:
                    second.socket, second.control = first.socket, first.control
                assert refused(second)
                count += 1
                worker.send(*ledger.of(*frames.call(frames.new_session())))
                worker.wait_acked()
                fault.settle(first)
        outcome = fault.judge(db, ledger.records, [first], acknowledged={worker.stream: worker.acked})
    assert first.stop() == 0
    fault.report("second_daemon", outcome, refused=count)


def test_copy_on_another_machine(needs_root: None, daemon_factory: Factory, db: Database, outage: Outage, scratch: Path) -> None:
    """It begins a journal of its own and says where the copy's is now. With --adopt-journal it goes on as the original."""
    random = fault.rng("another machine")
    ledger, acknowledged, daemons, adopted = oracle.Ledger(), {}, [], 0
    uuids = set()

    def on_machine(number: int) -> Daemon:
        name = scratch / f"machine-id.{number}"
        name.write_text(f"{number:032x}\n")
        made = daemon_factory(db.dsn, config=CONFIG)
        made.wrapper = [*AS_MACHINE, str(name)]
        daemons.append(made)
        return made

    def call_at(daemon: Daemon) -> None:
        with StreamSender(daemon.socket) as worker:
            worker.send(*ledger.of(*frames.call(frames.new_session())))
            worker.wait_acked()
            acknowledged[worker.stream] = worker.acked

    for round_ in range(fault.choose(2, 15)):
        original, copy, moved = (on_machine(3 * round_ + n + 1) for n in range(3))
        original.start()
        call_at(original)
        if random.random() < 0.5:
            outage.begin()
        call_at(original)
        copy_state(original, copy)
        copy.start()
        assert journal_uuid(copy) != journal_uuid(original)
        line = copy.wait_log("the journal was written on another machine: it was set aside and a new one begun")
        aside = Path(line.split("path=")[1].strip('"'))
        assert aside.name == f"journal-{journal_uuid(original)}.foreign" and (aside / "identity").exists()
        for daemon in random.sample((original, copy) * 2, 4):
            call_at(daemon)
        outage.end()
        fault.settle([original, copy])
        # The disk moves for good: its new machine is told so.
        call_at(original)
        original.kill()
        shutil.rmtree(moved.state)
        shutil.copytree(original.state, moved.state)
        moved.args = ["--adopt-journal"]
        moved.start()
        assert journal_uuid(moved) == journal_uuid(original)
        adopted += 1
        call_at(moved)
        fault.settle(moved)
        uuids |= {journal_uuid(each) for each in (original, copy)}
        assert moved.restart().stop() == 0 and copy.stop() == 0
    fault.report("copy_on_another_machine", fault.judge(db, ledger.records, daemons, acknowledged=acknowledged), uuids=len(uuids),
                 adopted=adopted)


@pytest.mark.writers(1, 2)
def test_clone_beside_the_original(daemon_factory: Factory, db: Database, outage: Outage) -> None:
    """Same machine id, same database, both at work: one becomes a journal of its own as soon as the other has stored something."""
    random = fault.rng("clone")
    ledger, acknowledged, daemons = oracle.Ledger(), {}, []
    renewed = before_start = 0
    for _ in range(fault.choose(3, 50)):
        original, clone = pair = [daemon_factory(db.dsn, config=CONFIG, activated=True) for _ in range(2)]
        daemons += pair
        original.start()
        with StreamSender(original.socket, 0.5) as a, StreamSender(clone.socket, 0.5) as b:
            workers = {id(original): a, id(clone): b}

            def call_at(daemon: Daemon, wait: bool = True) -> None:
                worker = workers[id(daemon)]
                worker.send(*ledger.of(*frames.call(frames.new_session())))  # all of about the same size: LSNs meet
                if wait:
                    worker.wait_acked()
            for _ in range(random.randrange(3)):
                call_at(original)
            if random.random() < 0.5:
                outage.begin()
            for _ in range(random.randrange(3)):
                call_at(original)
            if random.random() < 0.3:
                original.kill()
            copy_state(original, clone)
            for daemon in random.sample(pair, 2):
                if not daemon.running:
                    daemon.start()
                if random.random() < 0.5:
                    call_at(daemon)
            for _ in range(random.randrange(3, 12)):
                daemon = random.choice(pair)
                action = random.random()
                if action < 0.15:
                    (outage.end if db.cluster.dir.joinpath("away").exists() else outage.begin)()
                elif action < 0.3:
                    daemon.kill()
                    daemon.start()
                elif action < 0.4:
                    daemon.send_signal(signal.SIGTERM)
                    daemon.wait(20)
                    daemon.start()
                else:
                    call_at(daemon, wait=random.random() < 0.7)
                time.sleep(random.uniform(0, 0.1))
            outage.end()
            for _ in range(2):  # the second time both know
                for daemon in pair:
                    call_at(daemon)
                    fault.settle(daemon)
            assert journal_uuid(original) != journal_uuid(clone)
            text = original.log_text() + clone.log_text()
            renewed += text.count("this journal is in use twice: another tolld with a copy of this state directory")
            before_start += text.count("the journal was taken back")
            acknowledged |= {worker.stream: worker.acked for worker in (a, b)}
        for daemon in pair:
            assert daemon.stop() == 0
    assert renewed or not fault.LONG, "no clone was noticed by its claim"
    outcome = fault.judge(db, ledger.records, daemons, acknowledged=acknowledged)
    fault.report("clone_beside_original", outcome, clones=len(daemons) // 2, in_use_twice=renewed, taken_back=before_start)
