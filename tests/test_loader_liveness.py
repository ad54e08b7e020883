"""That waiting ends: a disk that hangs, a full queue, Ctrl-C, fork and spawn, cycle after cycle.

A disk that hangs is a named pipe in the place of an image: to open it blocks in the kernel, and no signal
that goes to the main thread ends that, until somebody opens the other end.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barlow.data import Index
from photos import loader, num_threads, photo, run_script, samples, write_folder

STUCK = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


@contextmanager
def hanging(index: Index) -> Iterator[None]:
    """Reads of sample `STUCK` hang inside; afterwards they end, and all threads with them."""
    path = Path(index.shard(STUCK))
    aside = path.with_name("aside")
    path.rename(aside)
    os.mkfifo(path)
    try:
        yield
    finally:
        while True:  # as many readers as there are
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                break
            time.sleep(0.01)
        aside.replace(path)
    assert num_threads() == 0


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(12):
        photo(i, 40, 40).save(tmp_path / f"{i:02}.jpg")
    Index.scan(tmp_path).write(tmp_path)
    return tmp_path


def test_a_stall_names_stage_shard_and_thread_and_ends_by_itself(images: Path) -> None:
    index = Index.open(images)
    batches = loader(index, batch_size=2, threads=2, shuffle=False, stall_after=0.05)
    reference = samples(loader(index, batch_size=2, shuffle=False))
    with hanging(index):
        start = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with pytest.raises(TimeoutError, match=r"no batch for 0\.5 s \(epoch 0, step 1\)") as caught:
                list(batches)
        assert 0.5 <= time.monotonic() - start < 2
        assert len(warned) == 9
        for text in [str(caught.value), *(str(warning.message) for warning in warned)]:
            assert f"read {images / '03.jpg'}: 03.jpg for" in text
            assert "barlow-0: " in text
            assert "barlow-1: " in text
        assert "idle" in str(caught.value)
        assert batches.state_dict() == {"epoch": 0, "step": 1}
        assert num_threads(1) == 1, "one of them hangs"
        # The process lives, and another loader works.
        good = index.subset([i for i in range(12) if i != STUCK])
        assert len(samples(loader(good, batch_size=2, threads=1))) == 10
    # The disk came back: this one goes on where it was.
    assert samples(batches) == reference[2:]


def test_what_is_only_slow_is_waited_for(tmp_path: Path) -> None:
    photo(0, 1500, 2000).save(tmp_path / "0.jpg")
    for i in range(1, 16):
        (tmp_path / f"{i}.jpg").hardlink_to(tmp_path / "0.jpg")
    batches = loader(tmp_path, batch_size=16, threads=1, stall_after=0.1, shrink_on_load=False)
    with pytest.warns(RuntimeWarning, match=r"no batch for .* barlow-0: (read|decode|augment) .*jpg"):
        (batch,) = batches
    assert sorted(batch.ids.tolist()) == list(range(16))


CTRL_C = """
import signal, threading
from pathlib import Path
data, case = sys.argv[1:]
views_of = views.barlow_twins(size=24)
settings = dict(views=views_of, batch_size=2, shuffle=False, threads=2, prefetch=4)
loader = Loader(data, **settings)

def alive():
    names = [Path(f"/proc/self/task/{t}/comm") for t in os.listdir("/proc/self/task")]
    return sum(path.read_text().startswith("barlow-") for path in names if path.exists())

iterator = iter(loader)
if case == "queue full":
    next(iterator)
    while loader.stats().finished < 4:
        time.sleep(0.01)
print("ready", flush=True)
try:
    if case == "queue full":
        time.sleep(60)
    for batch in iterator:
        pass
    print("finished before the signal")
except KeyboardInterrupt:
    del iterator
    loader.close()
    print(time.monotonic(), alive(), flush=True)
"""


@pytest.mark.parametrize("case", ["hanging", "queue full"])
def test_ctrl_c_while_a_disk_hangs_or_all_is_ready(images: Path, case: str) -> None:
    index = Index.open(images)
    if case == "hanging":
        Path(index.shard(STUCK)).unlink()
        os.mkfifo(index.shard(STUCK))
    process = run_script(CTRL_C, images, case, anew=case == "hanging")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    ended = time.monotonic()
    assert process.returncode == 0, err
    caught, alive = out.split()
    assert float(caught) - sent < 1
    # A thread whose open hangs cannot be ended by anybody, but the process can.
    assert int(alive) == (1 if case == "hanging" else 0)
    assert ended - sent < 5
    assert ("hang in a read" in err) == (case == "hanging")


def test_fifty_cycles_leave_threads_and_files_as_they_were(folder: Path) -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    next(iter(loader(folder)))
    gc.collect()
    before = open_files()
    for cycle in range(50):
        batches = loader(folder, threads=3, prefetch=2)
        iterator = iter(batches)
        next(iterator)
        start = time.monotonic()
        if cycle % 2:
            batches.close()
        del batches, iterator
        assert time.monotonic() - start < 1
    assert num_threads() == 0
    assert open_files() == before


def test_a_hundred_forked_children_are_told_at_once(folder: Path) -> None:
    process = run_script(
        """
loader = Loader(sys.argv[1], views=views.barlow_twins(24), batch_size=8, threads=2)
iterator = iter(loader)
next(iterator)
for trial in range(100):
    child = os.fork()
    if child == 0:
        start = time.monotonic()
        try:
            next(iterator)
            os._exit(2)
        except RuntimeError:
            os._exit(0 if time.monotonic() - start < 1 else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(len(list(iterator)))
""",
        folder,
    )
    out, err = process.communicate(timeout=120)
    assert (out, process.returncode) == ("4\n", 0), err


def _an_epoch(folder: Path) -> list[tuple[object, ...]]:
    return samples(loader(folder, epochs=1))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_without_our_threads_loads_for_itself(folder: Path, method: str) -> None:
    batches = loader(folder, epochs=1)
    iterator = iter(batches)
    first = next(iterator)
    with multiprocessing.get_context(method).Pool(1) as pool:
        theirs = pool.apply(_an_epoch, (folder,))
    assert theirs == samples([first]) + samples(iterator)
