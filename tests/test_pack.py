"""Packing and unpacking: lossless, the same bytes each time, complete or absent, and bad images by name."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barlow import _native as native
from sources import (
    CLASSES,
    class_folders,
    contents,
    image_bytes,
    numbered_samples,
    read_tar,
    read_tree,
    refused,
    write_tar,
    write_tree,
)


def test_packing_is_lossless_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = class_folders(20)
    folder = write_tree(tmp_path / "images", files)
    digests = set()
    for threads in (1, 2, 5):
        out = tmp_path / f"out-{threads}"
        report = native.pack(folder, out, min_shards=4, threads=threads)
        digests.add(
            json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in read_tree(out).items()})
        )
        seconds = report.pop("seconds")
        assert isinstance(seconds, float)
        assert seconds > 0
        stored = sum(path.stat().st_size for path in out.glob("*.tar"))
        expected = {"images": 60, "held_out_images": 0, "extra_members": 0, "shards": 4, "bytes": stored}
        expected |= {"classes": 3, "ignored": 0, "classes_without_training": 0}
        expected |= {"recoded": 0, "recoded_from_bytes": 0, "recoded_to_bytes": 0, "not_recoded": {}}
        assert report == {**expected, "skipped": []}
    assert len(digests) == 1
    shards = sorted((tmp_path / "out-1").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"shard-{n:05}.tar" for n in range(4)]
    assert {name: data for shard in shards for name, data in read_tar(shard).items()} == files
    assert max(path.stat().st_size for path in shards) < 1.3 * min(path.stat().st_size for path in shards)
    assert contents(native.Index.open(tmp_path / "out-1")) == files
    assert native.Index.scan(tmp_path / "out-1").digest() == native.Index.open(tmp_path / "out-1").digest()
    assert native.unpack(tmp_path / "out-1", tmp_path / "back")["files"] == 60
    assert read_tree(tmp_path / "back") == files


def test_shards_stay_below_their_size(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "images", class_folders(20))
    report = native.pack(folder, tmp_path / "out", shard_bytes=20_000)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.tar")]
    assert report["shards"] == len(sizes) > 3
    assert max(sizes) <= 20_000 + 1024


def test_packed_webdataset_keeps_its_numbers_without_an_index(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", numbered_samples())
    native.pack(tar, tmp_path / "out", min_shards=2)
    packed = native.Index.open(tmp_path / "out")
    assert packed.labels.tolist() == [n * 7 % 5 for n in range(12)]
    assert native.Index.scan(tmp_path / "out").digest() == packed.digest()
    assert read_tar(tmp_path / "out" / "shard-00000.tar")["000003.cls"] == b"1"


def test_long_and_undecodable_names_survive(tmp_path: Path) -> None:
    names = [
        "d" * 200 + "/" + "e" * 200 + "/x.jpg",
        "f" * 120 + "/" + "g" * 90 + ".jpg",
        "\udcff/\udcfe.jpg",
        "ä/ö.jpg",
    ]
    files = {name: image_bytes(n) for n, name in enumerate(names)}
    folder = tmp_path / "images"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(data)
    native.pack(folder, tmp_path / "out")
    assert contents(native.Index.open(tmp_path / "out")) == files
    assert read_tar(tmp_path / "out" / "shard-00000.tar") == files
    native.unpack(tmp_path / "out", tmp_path / "back")
    assert read_tree(tmp_path / "back") == files


def test_held_out_images_are_a_fixed_share_of_each_class(tmp_path: Path) -> None:
    files = class_folders(20)
    tar = write_tar(tmp_path / "x.tar", files)
    report = native.pack(tar, tmp_path / "out", held_out=0.25, min_shards=2)
    assert (report["images"], report["held_out_images"], report["shards"]) == (60, 15, 4)
    train, held = (native.Index.open(tmp_path / "out" / part) for part in ("train", "held-out"))
    assert np.bincount(held.labels).tolist() == [5, 5, 5]
    assert not contents(train).keys() & contents(held).keys()
    assert contents(train) | contents(held) == files
    assert train.class_names == held.class_names == CLASSES
    # The names alone decide, not the order of members or the data.
    shuffled = list(files)
    random.Random(1).shuffle(shuffled)
    native.pack(
        write_tar(tmp_path / "y.tar", {n: image_bytes(7) for n in shuffled}), tmp_path / "z", held_out=0.25
    )
    assert contents(native.Index.open(tmp_path / "z" / "held-out")).keys() == contents(held).keys()
    native.unpack(tmp_path / "out", tmp_path / "back")
    assert read_tree(tmp_path / "back") == files
    with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
        native.pack(tar, tmp_path / "none", held_out=1.0)


def test_damaged_images_stop_the_packing_or_are_listed(tmp_path: Path) -> None:
    files = class_folders()
    whole = files["bee/000.jpg"]
    bad = {
        "bee/000.jpg": whole[: len(whole) // 2],
        "cat/002.PNG": b"no PNG",
        "cat/006.PNG": files["cat/006.PNG"][:-40],
    }
    tar = write_tar(tmp_path / "x.tar", files | bad)
    error = refused("image", native.pack, tar, tmp_path / "out")
    assert error.member == "bee/000.jpg"
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    report = native.pack(tar, tmp_path / "out", on_error="skip", min_shards=3)
    assert report["images"] == len(files) - 3
    skipped = report["skipped"]
    assert isinstance(skipped, list)
    assert [entry["member"] for entry in skipped] == list(bad)
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == skipped
    assert contents(native.Index.open(tmp_path / "out")).keys() == files.keys() - bad.keys()
    # The shards are as many as asked for, whatever had to be left out of them.
    image = image_bytes(0)
    files = {f"{n}.jpg": image if n not in (0, 2) else bytes(len(image)) for n in range(6)}
    report = native.pack(
        write_tar(tmp_path / "six.tar", files), tmp_path / "six", on_error="skip", min_shards=3
    )
    assert (report["images"], report["shards"]) == (4, 3)
    with pytest.raises(ValueError, match="ignore"):
        native.pack(tar, tmp_path / "other", on_error="ignore")  # pyright: ignore[reportArgumentType]
    refused(
        "empty",
        native.pack,
        write_tar(tmp_path / "y.tar", {"a.jpg": b""}),
        tmp_path / "other",
        on_error="skip",
    )
    # A broken archive is never skipped over.
    tar.write_bytes(tar.read_bytes()[:3000])
    refused("archive", native.pack, tar, tmp_path / "other", on_error="skip")
    assert not (tmp_path / "other").exists()


def test_packing_without_decoding_looks_at_headers_alone(tmp_path: Path) -> None:
    files = class_folders()
    whole = files["bee/000.jpg"]
    cut = files | {"bee/000.jpg": whole[: len(whole) - 40]}
    report = native.pack(write_tar(tmp_path / "x.tar", cut), tmp_path / "out", decode=False)
    assert report["images"] == len(files)
    assert contents(native.Index.open(tmp_path / "out")) == cut
    # What was not decoded is not taken as proven: byte 39 of a sample's record says so.
    proven = []
    for name, decode in (("out", False), ("other", True)):
        if decode:
            native.pack(write_tar(tmp_path / "y.tar", files), tmp_path / name)
        raw = (tmp_path / name / "barlow.index").read_bytes()
        proven.append({raw[128 + 40 * i + 39] & 1 for i in range(len(files))})
    assert proven == [{0}, {1}]
    no_image = write_tar(tmp_path / "z.tar", files | {"cat/002.PNG": b"no PNG"})
    refused("image", native.pack, no_image, tmp_path / "none", decode=False)


def test_only_an_earlier_output_is_ever_replaced(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "images", class_folders())
    out = tmp_path / "out"
    out.mkdir()
    native.pack(folder, out)
    before = read_tree(out)
    with pytest.raises(ValueError, match="exists already"):
        native.pack(folder, out)
    assert read_tree(out) == before
    native.pack(folder, out, min_shards=2, held_out=0.5, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["held-out", "train"]
    native.pack(folder, out, overwrite=True)
    assert read_tree(out) == before
    (out / "thesis.tex").write_text("precious")
    for target in (out, folder):
        with pytest.raises(ValueError, match="holds something else"):
            native.pack(folder, target, overwrite=True)
    with pytest.raises(ValueError, match="is no folder"):
        native.pack(folder, out / "thesis.tex", overwrite=True)
    with pytest.raises(ValueError, match="not empty"):
        native.unpack(out, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_an_exception_of_the_callback_stops_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "images", class_folders(40))
    for exception in (KeyboardInterrupt, ZeroDivisionError):

        def stop(done: int, total: int, exception: type[BaseException] = exception) -> None:
            assert 0 <= done <= total == 120
            raise exception

        for call in (
            lambda: native.pack(folder, tmp_path / "out", progress=stop),
            lambda: native.Index.scan(folder, progress=stop),
        ):
            with pytest.raises(exception):
                call()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    seen: list[tuple[int, int]] = []
    native.pack(folder, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (120, 120)
    assert seen == sorted(seen)


def test_a_signal_interrupts_and_other_threads_go_on(tmp_path: Path) -> None:
    # Long enough that the signal comes in the middle.
    image = image_bytes(0)
    tar = write_tar(tmp_path / "x.tar", {f"{n}.jpg": image for n in range(30_000)})
    turns = 0

    def watch() -> None:
        nonlocal turns
        while not stopped.wait(0.001):
            turns += 1

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    stopped = threading.Event()
    watcher = threading.Thread(target=watch)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        watcher.start()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            native.pack(tar, tmp_path / "out", threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stopped.set()
        watcher.join()
    # Had the signal waited for the end, there would be an output.
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    assert turns > 20


def test_a_killed_packing_leaves_no_output_and_can_be_repeated(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "images", class_folders(100))
    native.pack(folder, tmp_path / "good", min_shards=3)
    program = (
        "import sys; from barlow import _native as n; print(flush=True); n.pack(*sys.argv[1:], min_shards=3)"
    )
    out = tmp_path / "out"
    rng = random.Random(3)
    killed = 0
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", program, folder, out], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        if out.exists():
            # It was done before it was killed.
            assert read_tree(out) == read_tree(tmp_path / "good")
            shutil.rmtree(out)
    assert killed
    native.pack(folder, out, min_shards=3, overwrite=True)
    assert read_tree(out) == read_tree(tmp_path / "good")
    assert {path.name for path in tmp_path.iterdir()} <= {"images", "good", "out"}  # no leftovers


@pytest.mark.parametrize("name", ["/tmp/x.jpg", "../x.jpg", "a/../../x.jpg"])
def test_names_that_lead_elsewhere_are_read_but_not_unpacked(name: str, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a/0.jpg": image_bytes(0), name: image_bytes(1)})
    assert refused("source", native.unpack, tar, tmp_path / "out").member == name
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_unpacking_checks_what_the_index_knows(tmp_path: Path) -> None:
    native.pack(write_tree(tmp_path / "images", class_folders()), tmp_path / "out")
    shard = tmp_path / "out" / "shard-00000.tar"
    name, offset, _ = native.members(shard)[4]
    data = bytearray(shard.read_bytes())
    data[offset + 30] ^= 1
    shard.write_bytes(data)
    assert refused("checksum", native.unpack, tmp_path / "out", tmp_path / "back").member == name.decode()
    assert not (tmp_path / "back").exists()
    twice = write_tar(tmp_path / "x.tar", {"a": b"1", "./a": b"2"})
    assert refused("io", native.unpack, twice, tmp_path / "back").member == "./a"
    empty = write_tar(tmp_path / "empty.tar", {})
    assert "hold no files" in str(refused("empty", native.unpack, empty, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_cifar_is_what_tarfile_finds_in_it(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "cifar10-test.tar"
    index = native.Index.scan(source, threads=2)
    with tarfile.open(source) as tar:
        members = [member for member in tar if member.isfile()]
        assert [index.name(i) for i in range(len(index))] == [member.name for member in members]
        classes = sorted({member.name.split("/")[0] for member in members})
        assert index.class_names == classes
        assert index.labels.tolist() == [classes.index(member.name.split("/")[0]) for member in members]
        for i in range(0, len(index), 997):
            assert index.read(i) == tar.extractfile(members[i]).read()  # pyright: ignore
    report = native.pack(source, tmp_path / "out", min_shards=4, threads=2)
    assert (report["images"], report["shards"]) == (10_000, 4)
    assert native.Index.open(tmp_path / "out").digest() == index.digest()


def test_imagenet_files_are_accepted_as_they_are(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "imagenet-sample.tar"
    report = native.pack(source, tmp_path / "out", shard_bytes=32 << 20, held_out=0.1, threads=2)
    assert (report["images"], report["held_out_images"], report["classes"]) == (1000, 100, 1000)
    assert report["classes_without_training"] == 100  # each has one image
    held = native.Index.open(tmp_path / "out" / "held-out")
    for i in range(0, 100, 9):
        with Image.open(io.BytesIO(held.read(i))) as image:
            assert held.shape(i) == (image.height, image.width)
