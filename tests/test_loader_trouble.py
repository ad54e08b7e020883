"""The loader in trouble: bad input, bad arguments, Ctrl-C, fork, leaving early. It speaks, and it ends."""

from __future__ import annotations

import gc
import signal
import tarfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from barlow.data import DataError, Index, views
from photos import NUM_IMAGES, loader, num_threads, photo, run_script, samples, write_folder, write_tar


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


# Bad input and bad arguments


def test_damage_after_indexing_has_an_address_and_its_turn(folder: Path, tmp_path: Path) -> None:
    write_tar(folder, tmp_path / "photos.tar")
    index = Index.scan(tmp_path / "photos.tar")
    good = samples(loader(index, shuffle=False))
    victim = 19  # in step 2
    with tarfile.open(tmp_path / "photos.tar") as tar:
        member = tar.getmember(index.name(victim))
    with (tmp_path / "photos.tar").open("r+b") as file:
        file.seek(member.offset_data + member.size // 2)
        file.write(b"\xff\x00\xff\x00")

    batches = loader(index, shuffle=False, prefetch=4)
    seen = []
    with pytest.raises(DataError) as caught:
        seen.extend(batches)
    assert samples(seen) == good[:16]
    error = caught.value
    assert error.kind == "checksum"
    assert error.shard == str(tmp_path / "photos.tar")
    assert error.member == member.name
    assert error.offset == member.offset_data

    # The position stays, the error too; behind it all is well, here and in another loader.
    assert batches.state_dict() == {"epoch": 0, "step": 2}
    with pytest.raises(DataError, match="checksum"):
        next(iter(batches))
    batches.load_state_dict({"epoch": 0, "step": 3})
    assert samples(batches) == good[24:]
    assert samples(islice(loader(index, shuffle=False), 2)) == good[:16]


def test_a_damaged_image_has_an_address(tmp_path: Path) -> None:
    for i in range(6):
        photo(i, 40, 40).save(tmp_path / f"{i}.jpg")
    whole = (tmp_path / "4.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(DataError) as caught:
        list(loader(Index.scan(tmp_path), batch_size=2, shuffle=False))
    assert caught.value.kind == "image"
    assert "4.jpg" in str(caught.value)
    assert "4.jpg" in f"{caught.value.shard} {caught.value.member}"
    assert caught.value.offset == 0
    assert num_threads() == 0


def test_a_missing_source_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        loader(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("batch_size", {"batch_size": 0}),
        ("batch.size", {"batch_size": NUM_IMAGES + 1}),
        ("batch_size", {"batch_size": 2.5}),
        ("seed", {"seed": -1}),
        ("threads", {"threads": -1}),
        ("prefetch", {"prefetch": 0}),
        ("epochs", {"epochs": 0}),
        ("world_size", {"world_size": 0}),
        ("rank", {"rank": 2, "world_size": 2}),
        ("views", {"views": []}),
        ("scale", {"views": [views.View(views.RandomResizedCrop(24, scale=(0.5, 0.1)))]}),
        ("size", {"views": views.evaluation(size=24, resize=16)}),
    ],
)
def test_a_bad_argument_is_named(folder: Path, name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=name):
        loader(folder, **settings)
    assert num_threads() == 0


@pytest.mark.parametrize(
    "state",
    [{}, {"epoch": 0}, {"epoch": 0, "step": 5}, {"epoch": -1, "step": 0}, {"epoch": 0, "step": 0, "x": 0}],
)
def test_a_bad_state_is_refused_and_changes_nothing(folder: Path, state: dict[str, int]) -> None:
    batches = loader(folder)
    next(iter(batches))
    with pytest.raises(ValueError, match=r"state|step|epoch"):
        batches.load_state_dict(state)
    assert [batch.step for batch in batches] == [1, 2, 3, 4]


def test_memory_that_does_not_fit_is_refused(folder: Path) -> None:
    batches = loader(folder)
    stream = batches._start()
    assert stream.wanted() == (0, 0, 8)
    rows = np.empty(8, np.int64)
    view = np.empty((8, 3, 24, 24), np.uint8)
    read_only = np.frombuffer(bytes(view.nbytes), np.uint8).reshape(view.shape)
    for bad in [read_only, view[:4], view[:, :, :, :23], view.transpose(0, 1, 3, 2), view[:, :, :16]]:
        with pytest.raises((ValueError, TypeError)):
            stream.lend([view, bad], rows, rows.copy())
    with pytest.raises(ValueError, match="views"):
        stream.lend([view], rows, rows.copy())
    with pytest.raises(TypeError):
        stream.lend([view, view.astype(np.int8)], rows, rows.copy())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no memory was lent"):
        stream.take(1.0)
    batches.close()


# That it always ends


def test_leaving_in_mid_epoch_leaves_no_thread_and_no_file(folder: Path) -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    assert num_threads() == 0
    before = open_files()
    for leave in ["break", "del", "raise", "close", "with"] * 4:
        batches = loader(folder, threads=3)
        iterator = iter(batches)
        next(iterator)
        assert num_threads(3) == 3
        start = time.monotonic()
        if leave == "close":
            batches.close()
            batches.close()
            with pytest.raises(ValueError, match="closed"):
                next(iterator)
        elif leave == "with":
            with batches:
                next(iterator)
        elif leave == "raise":
            with pytest.raises(ZeroDivisionError):
                sum(batch.step // 0 for batch in iterator)
        elif leave == "break":
            for _ in batches:
                break
        del batches, iterator
        assert num_threads() == 0, leave
        assert time.monotonic() - start < 1
    assert open_files() == before


def test_threads_start_with_the_first_batch_only(folder: Path) -> None:
    batches = loader(folder, threads=2)
    assert num_threads() == 0
    next(iter(batches))
    assert num_threads(2) == 2


def test_ctrl_c_interrupts_a_wait(tmp_path: Path) -> None:
    photo(0, 1500, 2000).save(tmp_path / "0.jpg")
    for i in range(1, 256):
        (tmp_path / f"{i}.jpg").hardlink_to(tmp_path / "0.jpg")
    process = run_script(
        """
loader = Loader(sys.argv[1], views=views.barlow_twins(32), batch_size=256, threads=1)
print("waiting", flush=True)
try:
    next(iter(loader))
    print("finished before the signal")
except KeyboardInterrupt:
    print(time.monotonic(), loader.state_dict())
""",
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.4)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    caught, state = out.split(maxsplit=1)
    assert state.strip() == "{'epoch': 0, 'step': 0}"
    # A slice of 50 ms, the image being decoded, and room for a busy machine.
    assert float(caught) - sent < 0.5


def test_a_forked_child_is_told_and_the_parent_goes_on(folder: Path) -> None:
    process = run_script(
        """
loader = Loader(sys.argv[1], views=views.barlow_twins(24), batch_size=8, threads=2)
iterator = iter(loader)
next(iterator)
child = os.fork()
if child == 0:
    code = 3
    try:
        next(iterator)
    except RuntimeError as error:
        code = 0 if "forked" in str(error) else 4
    loader.stats()
    del iterator, loader
    fresh = Loader(sys.argv[1], views=views.barlow_twins(24), batch_size=8, threads=2)
    os._exit(code if len(list(fresh)) == 5 else 5)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(list(iterator)))
""",
        folder,
    )
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("0 4\n", 0), err


def test_the_interpreter_exits_in_mid_epoch(folder: Path) -> None:
    process = run_script(
        """
loader = Loader(sys.argv[1], views=views.barlow_twins(224), batch_size=32, prefetch=8, threads=2)
iterator = iter(loader)
next(iterator)
sys.stuck = loader, iterator  # nobody lets go of it before the very end
""",
        folder,
        anew=True,
    )
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
