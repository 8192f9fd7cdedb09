"""Processes that look for each other: bounded, with a word about who is missing, and ended by a signal."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import DistNetworkError

from fcdm.engine import rendezvous
from fcdm.engine.rendezvous import LIMIT, meet
from fcdm.errors import UserError
from fcdm.runs.peers import Peers
from tests.support.commands import TINY, Command, environment, free_port, ranks_of


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where another listens, and says nothing."""
    with socket.create_server(("", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(("signum", "rank"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_the_first_signal_ends_it(tmp_path: Path, signum: signal.Signals, rank: int) -> None:
    """After it has said whom it waits for; far before its limit, at which it would end with 1."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fcdm.train", "model=N", "steps=4", *TINY],
        cwd=tmp_path,
        env=environment(**ranks_of(3)[rank]),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    wanted = "2 others (rank 1, 2) at 127.0.0.1:" if rank == 0 else "rank 0 at 127.0.0.1:"
    said = ""
    for said in process.stderr:  # a slow one says first that it has not even begun to listen
        if wanted in said:
            break
    assert wanted in said
    assert "unset RANK and WORLD_SIZE" in said
    process.send_signal(signum)
    _, rest = process.communicate(timeout=240)
    assert process.returncode == 128 + signum
    assert "waits for" in rest
    assert "Traceback" not in rest


def test_it_is_bounded(fcdm: Command) -> None:
    done = fcdm("model=N", "steps=4", *TINY, **ranks_of(2)[0], **{LIMIT: "1"})
    assert done.returncode == 1
    assert "fcdm.train: rank 0 of 2 processes" in done.stderr
    assert re.search(
        r" waits for (1 other \(rank 1\)|rank 0) at 127\.0\.0\.1:.* for 1 s \(", done.stderr
    )  # fast, or slow
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize("limit", ["0", "soon", "-3", "nan"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(LIMIT, limit)
    with pytest.raises(UserError, match=f"{LIMIT}={limit} cannot be"):
        meet(Peers(0, 2, address="127.0.0.1", ports=(0,)), lambda store: None, None)


def test_a_port_that_is_taken(taken: int) -> None:
    with pytest.raises(UserError, match=f":{taken}, where the 2 processes are to meet, is in use"):
        meet(Peers(0, 2, address="127.0.0.1", ports=(taken,)), lambda store: None, None)


MEET = """
import sys, time
from fcdm.engine import rendezvous
from fcdm.runs.peers import Peers
rank, call, *ports = sys.argv[1:]
def join(store):
    store.set(f"of {rank}", call + rank)
    print(store.get(f"of {1 - int(rank)}").decode(), flush=True)
    store.add("done", 1)
    end = time.monotonic() + 240
    while rank == "0" and store.add("done", 0) < 2: assert time.monotonic() < end
rendezvous.ANSWER_S = 0.5
rendezvous.meet(Peers(int(rank), 2, address="127.0.0.1", ports=tuple(map(int, ports)), call=call), join, None)
"""


def test_commands_at_once_find_their_own_and_a_free_port(taken: int) -> None:
    """Of three commands two are the same, word for word; the first port is somebody's who never answers."""
    ports = [str(taken), *(str(free_port()) for _ in range(5))]  # three listen
    calls = [("a", "1"), ("b", "0"), ("b", "1"), ("a", "0"), ("b", "1"), ("b", "0")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MEET, rank, call, *ports],
            env=environment(**{LIMIT: "240"}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for call, rank in calls
    ]
    try:
        for (call, rank), process in zip(calls, started, strict=True):
            said, _ = process.communicate(timeout=240)
            assert (process.returncode, said.strip()) == (0, f"{call}{1 - int(rank)}")
    finally:
        for process in started:
            process.kill()


def test_the_first_process_ends_before_all_are_there() -> None:
    """The others do not wait for their own limit."""
    first = rendezvous._Meeting(Peers(0, 3, address="127.0.0.1", ports=(0,)), lambda store: None)
    threads = [threading.Thread(target=first.hold, daemon=True)]
    threads[0].start()
    while not first.found:
        assert threads[0].is_alive()
    (port,) = first.peers.ports
    second = rendezvous._Meeting(Peers(1, 3, address="127.0.0.1", ports=(port,)), lambda store: None)
    second.call = first.call
    threads.append(threading.Thread(target=second.hold, daemon=True))
    threads[1].start()
    while 1 in first.missing or not second.found:
        assert all(thread.is_alive() for thread in threads)
    first.over = True
    for thread in threads:
        thread.join(240)
    assert first.error is None
    assert f"rank 0, at 127.0.0.1:{port}, has ended" in str(second.error)


@pytest.mark.parametrize("when", ["check", "join"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_store_that_ends_as_it_is_asked(monkeypatch: pytest.MonkeyPatch, when: str, ends: bool) -> None:
    """Its end is seen by the store before it is by the line; and one that fails, whose process lives, is not ended."""
    here, there = socket.socketpair()

    def fails(*_: object) -> bool:
        if ends:
            threading.Timer(0.2, there.close).start()
        raise DistNetworkError("Failed to recv")

    def found(meeting: rendezvous._Meeting) -> SimpleNamespace:
        meeting.lines = [here]
        return SimpleNamespace(check=fails if when == "check" else lambda keys: True)

    monkeypatch.setattr(rendezvous._Meeting, "_find", found)
    monkeypatch.setattr(rendezvous, "PrefixStore", lambda prefix, store: store)
    monkeypatch.setattr(rendezvous, "ANSWER_S", 240.0 if ends else 0.1)
    with here, there, pytest.raises(UserError, match="rank 0, at h:1, has ended" if ends else "Failed to recv"):
        meet(Peers(1, 2, address="h", ports=(1,)), fails, None)
