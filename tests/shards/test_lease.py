"""Who may score a shard: one process at a time, and the next when that has ended."""

import json
import multiprocessing
import os
import time

from invad_med.shards.lease import STALE, Lease, holder_of


def _hold(path, held, go):
    with Lease.take(path) as lease:
        lease.note(source=7, slices=3)
        held.set()
        go.wait()
        os._exit(9)  # as a kill leaves it


def test_a_shard_is_one_process_s_until_that_ends_and_what_it_had_in_hand_is_known(tmp_path):
    path, context = tmp_path / "state" / "a.lease", multiprocessing.get_context("spawn")
    held, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, go))
    other.start()
    assert held.wait(60)
    assert Lease.take(path) is None and holder_of(path).source == 7
    go.set()
    other.join()
    lease = Lease.take(path)
    assert lease.left.source == 7
    lease.put_back()
    with Lease.take(path) as lease:
        assert lease.left.source == 7 and holder_of(path).source == -1
    assert not path.exists()


def test_an_error_gives_the_shard_free_without_a_trace(tmp_path):
    path = tmp_path / "a.lease"
    try:
        with Lease.take(path) as lease:
            lease.note(source=1)
            raise OSError("full")
    except OSError:
        pass
    again = Lease.take(path)
    assert again.left is None
    again.put_back()


def test_another_machine_s_shard_is_left_to_it_while_it_beats(tmp_path):
    path = tmp_path / "a.lease"
    path.write_text(json.dumps({"host": "another", "source": 2, "slices": 5}).ljust(256))
    assert Lease.take(path) is None
    os.utime(path, (time.time() - STALE - 1,) * 2)
    lease = Lease.take(path)
    assert lease.left.host == "another" and lease.left.source == 2
    lease.put_back()
