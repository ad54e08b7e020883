"""`barlow bench loader`: the same work for everyone, honest arithmetic, and peers that fail alone."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import signal
import statistics
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from barlow import bench
from barlow.bench import Settings, contest, machine, picture, tables, worker
from barlow.bench.images import Images, prepare
from barlow.bench.lanes import Failed, Lane
from barlow.bench.pipelines import ENTRIES, Entry, official, ours
from barlow.bench.pipelines.job import MEAN, STD, Job, Pipeline
from barlow.data import Index, Order, pack, recode, views
from commands import barlow_here, finish, make_images, start
from nursery import Forked

NUM_IMAGES = 32
SETTINGS = Settings(images=NUM_IMAGES, batch_size=8, rounds=1)


@pytest.fixture(scope="module", autouse=True)
def lanes_are_forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Forked)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("bench") / "photos", NUM_IMAGES, side_px=72)


@pytest.fixture(scope="module")
def images(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    out = tmp_path_factory.mktemp("chosen")
    return prepare(folder, NUM_IMAGES, 8, out / "images", threads=2, recode=True)


@pytest.fixture(scope="module")
def result(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole run of the command with two rounds, read back from its JSON."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        settings = dataclasses.replace(
            SETTINGS, rounds=2, size=64, threads="1", only="barlow,recoded,official,decode", recode=True,
            json=out / "result.json", picture=out / "bars.svg",
        )  # fmt: skip
        assert bench.run(folder, settings, command="barlow bench loader photos")
    read = json.loads((out / "result.json").read_text())
    assert (out / "bars.svg").read_text() == picture.svg(*picture.layout(read))
    return read


def test_the_result_says_what_was_measured(result: dict[str, Any], folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    assert result["data"] == {
        "source": str(folder),
        "images": NUM_IMAGES,
        "mean_bytes": round(statistics.mean(sizes)),
        "mean_pixels": 72 * 72,
        "recoded": {"images": NUM_IMAGES, "mean_bytes": _recoded_bytes(folder)},
    }
    assert (result["task"], result["size"], result["rounds"], result["batch_size"]) == ("views", 64, 2, 8)
    assert result["views"] == [str(view) for view in views.barlow_twins(64)]
    assert result["command"] == "barlow bench loader photos"
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["machine"]["cpu"]
    assert result["missing"] == []


def test_recoded_shards_are_measured_by_their_originals(folder: Path, tmp_path: Path) -> None:
    """Nobody else can decode them, and "decode" of them would not be libjpeg-turbo's."""
    pack(folder, tmp_path / "shards", recode=True)
    images = prepare(tmp_path / "shards", 8, 4, tmp_path / "images", threads=1, recode=True)
    sources = {path.read_bytes() for path in folder.rglob("*.jpg")}
    index = Index.open(images.index)
    assert index.recoded().size == 0
    assert [index.read(i) for i in range(8)] == [path.read_bytes() for path in images.files]
    assert {path.suffix for path in images.files} == {".jpg"}
    assert {path.read_bytes() for path in images.files} <= sources
    assert images.recoded is not None
    assert Index.open(images.recoded.index).recoded().size == images.recoded.facts["images"] == 8


def _recoded_bytes(folder: Path) -> int:
    """Mean size of the images recoded one by one."""
    members = [recode(path.read_bytes()) for path in folder.rglob("*.jpg")]
    return round(statistics.mean(len(member) for member in members if member is not None))


def test_its_numbers_agree_with_each_other(result: dict[str, Any]) -> None:
    (run,) = result["runs"]
    assert run["threads"] == len(run["cpus"]) == 1
    assert run["failed"] == []
    lines = {(line["name"], line["output"]): line for line in run["pipelines"]}
    assert list(lines) == [
        ("barlow", "float32"), ("barlow", "uint8"), ("recoded", "float32"), ("recoded", "uint8"),
        ("official", "float32"), ("decode", "uint8"),
    ]  # fmt: skip
    # The same views of the same images: the same colours, from other bytes.
    plain, recoded = lines["barlow", "uint8"], lines["recoded", "uint8"]
    assert recoded["mean_rgb"] == plain["mean_rgb"]
    assert recoded["mean_bytes"] == result["data"]["recoded"]["mean_bytes"] != plain["mean_bytes"]
    for line in lines.values():
        rate = line["images_per_s"]
        assert len(rate["rounds"]) == 2
        assert 0 < rate["min"] == min(rate["rounds"]) <= rate["median"] <= rate["max"] == max(rate["rounds"])
        assert rate["median"] == pytest.approx(statistics.mean(rate["rounds"]))  # of two
        for name, output in (("official", "float32"), ("decode", "uint8")):
            other = lines[name, output]["images_per_s"]["median"]
            assert line[f"x_{name}"] == pytest.approx(rate["median"] / other)
    stages = lines["barlow", "float32"]["stage_ms_per_image"]
    assert {"read", "decode", "augment"} <= stages.keys()
    # One thread on one core cannot have worked longer than the rounds took.
    worked = sum(stages[name] for name in ("read", "decode", "augment"))
    assert 0 < worked < max(1e3 / rate for rate in lines["barlow", "float32"]["images_per_s"]["rounds"])
    assert lines["official", "float32"]["stage_ms_per_image"] == {}


def test_the_tables_show_every_pipeline(result: dict[str, Any]) -> None:
    text = tables.render(result)
    for line in result["runs"][0]["pipelines"]:
        cell = f" {line['output']} "
        rows = [
            row for row in text.splitlines() if cell in row and row.split(cell)[0].strip() == line["title"]
        ]
        (row,) = rows
        assert tables.number(line["images_per_s"]["median"]) in row
        assert tables.times(line["x_official"]) in row
        read = line["mean_bytes"] * line["images_per_s"]["median"] / 1e6
        assert tables.number(read) in row.split()
    assert ("x official" in text, "x decoding" in text) == (True, True)
    (run,) = result["runs"]
    pipelines = [line | {"x_decode": None} for line in run["pipelines"]]
    without = tables.render(result | {"runs": [run | {"pipelines": pipelines}]})  # as with --only
    assert ("x official" in without, "x decoding" in without) == (True, False)
    assert "barlow (float32): " in text
    assert f"{NUM_IMAGES} images of photos" in text


def test_bars_are_as_long_as_their_rates(result: dict[str, Any]) -> None:
    shapes, height = picture.layout(result)
    root = ET.fromstring(picture.svg(shapes, height))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    bars = [s for s in shapes if isinstance(s, picture.Box) and s.height == picture._BAR]
    medians = [line["images_per_s"]["median"] for line in result["runs"][0]["pipelines"]]
    assert len(bars) == len(medians)
    lengths = np.array([bar.width for bar in bars])
    assert lengths / lengths[0] == pytest.approx(np.array(medians) / medians[0])
    assert max(bar.x + bar.width for bar in bars) < picture.WIDTH
    drawn = Image.open(io.BytesIO(picture.png(shapes, height)))
    assert drawn.size == (2 * picture.WIDTH, 2 * height)
    middle = (int(2 * bars[0].x + 4), int(2 * (bars[0].y + 4)))
    assert drawn.getpixel(middle) == (0x17, 0x69, 0xAA)


def test_the_images_are_spread_over_the_source(folder: Path, tmp_path: Path) -> None:
    chosen = prepare(folder, 21, 5, tmp_path / "images", threads=1)
    assert chosen.facts["images"] == 20
    originals = {path.read_bytes(): i for i, path in enumerate(sorted(folder.rglob("*.jpg")))}
    places = [originals[file.read_bytes()] for file in chosen.files]
    assert places == [i * NUM_IMAGES // 20 for i in range(20)]
    assert prepare(folder, 512, 0, tmp_path / "more", threads=2).batch_size == NUM_IMAGES // (4 * 2)
    with pytest.raises(ValueError, match="32 images are too few for 3 threads and batches of 11"):
        prepare(folder, 512, 11, tmp_path / "none", threads=3)


def _job(images: Images, name: str, **changes: Any) -> Job:
    settings = dataclasses.replace(SETTINGS, **{k: v for k, v in changes.items() if k != "output"})
    output = changes.get("output", "float32")
    return contest.job(name, output if output in ENTRIES[name].outputs else "uint8", images, settings, 1)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_pipeline_makes_what_the_table_says(images: Images, name: str) -> None:
    """In its own process, which checks number, shape, type and range of the views itself."""
    if not ENTRIES[name].installed:
        pytest.skip(f"not installed: {ENTRIES[name].install}")
    with Lane(_job(images, name)) as lane:
        try:
            lane.start()
        except Failed as reason:
            if "libspdl" in str(reason):
                pytest.skip("SPDL finds no FFmpeg")
            raise
        answer = lane.round(0, check=True)
    assert answer["images"] == NUM_IMAGES
    # Of the pixels themselves; crops, colours and solarize move the mean by a few levels.
    expected = np.mean([np.asarray(Image.open(file)).reshape(-1, 3).mean(0) for file in images.files], 0)
    assert answer["mean_rgb"] == pytest.approx(expected, abs=0.01 if name == "decode" else 20)


def test_the_official_pipeline_is_the_official_script(images: Images) -> None:
    """Spelled out once more, as the method's own code has it."""
    made: Any = official.Views(_job(images, "official").views, "float32").transforms
    for view, blur_p, solarize_p in zip(made, (1.0, 0.1), (0.0, 0.2), strict=True):
        *common, blur, solarize, to_tensor, normalise = view.transforms
        spelled = [
            T.RandomResizedCrop(224, interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(p=0.5),
            T.RandomApply([T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
        ]
        assert list(map(repr, common)) == list(map(repr, spelled))
        assert (blur.p, blur.sigma, solarize.p, solarize.threshold) == (blur_p, (0.1, 2.0), solarize_p, 128)
        assert repr(to_tensor) == repr(T.ToTensor())
        assert repr(normalise) == repr(T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


# torchvision 0.29 announces the end of its decoder; it is what v2's users have.
@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.parametrize("output", ["uint8", "float32"])
@pytest.mark.parametrize(("module", "worst"), [("official", 1), ("tensors", 2), ("opencv_numpy", None)])
def test_evaluation_views_are_ours(images: Images, module: str, worst: int | None, output: str) -> None:
    """The one task without chance: the same pixels from everyone, but for the filter of the resize."""
    if module == "opencv_numpy":
        pytest.importorskip("cv2")
    job = _job(images, "official", task="evaluation", size=56, output=output)
    made: dict[int, torch.Tensor] = {}
    for batch, places in zip(ours.build(job).round(0), _order_of_ours(job), strict=True):
        made |= dict(zip(places, batch[0], strict=True))
    theirs = importlib.import_module(f"barlow.bench.pipelines.{module}").Views(job.views, output)
    for i, file in enumerate(job.files):
        (view,) = theirs(file)
        difference = (_levels(view) - _levels(made[i])).abs()
        assert difference.mean() < 0.7, i
        assert worst is None or difference.max() <= worst + 1e-3, i


def _order_of_ours(job: Job) -> list[list[int]]:
    """The positions of the images that our pipeline gives in its round 0."""
    order = Order(len(Index.open(job.index)), job.batch_size, seed=0)
    return [order.batch(0, step).tolist() for step in range(order.steps_per_epoch)]


def _levels(view: torch.Tensor) -> torch.Tensor:
    if view.dtype == torch.uint8:
        return view.float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (view * std + mean) * 255


def _constant(value: float, size: int = 224, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((8, 3, size, size), value, dtype=dtype)


@pytest.mark.parametrize(
    ("batches", "complaint"),
    [
        ([[_constant(0), _constant(0)]] * 3, "24 images, not of 32"),
        ([[_constant(0)]] * 4, "views of shape"),
        ([[_constant(0), _constant(0, size=96)]] * 4, "views of shape"),
        ([[_constant(0), _constant(0)[:7]]] * 4, r"float32 \[7, ...\], not float32 \[8, ...\]"),
        ([[_constant(0), _constant(9, dtype=torch.uint8)]] * 4, "uint8"),
        ([[_constant(0), _constant(100)]] * 4, "on the scale of 0 to 255"),
        ([[_constant(0), _constant(-3)]] * 4, "on the scale of 0 to 255"),
    ],
)
def test_a_pipeline_that_makes_something_else_is_found_out(
    images: Images, batches: list[Any], complaint: str
) -> None:
    wrong = Pipeline(lambda turn: batches, "1 thread")
    with pytest.raises(ValueError, match=complaint):
        worker.timed_round(wrong, _job(images, "official"), 0, check=True)


def test_a_peer_fails_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is missing is listed with its pip line, one that fails with its reason; ours is measured."""
    absent = Entry("Absent", "absent", ("surely_not_installed.at_all",), "pip install surely-not")
    # The process knows no pipeline of this name.
    broken = Entry("Broken", "broken", ("torch",))
    entries = {"absent": absent, "broken": broken, "barlow": ENTRIES["barlow"]}
    monkeypatch.setattr(contest, "ENTRIES", entries)
    monkeypatch.setattr("barlow.bench.pipelines.ENTRIES", entries)
    settings = dataclasses.replace(SETTINGS, threads="1", output="uint8", size=32)
    assert bench.run(folder, settings)
    out = capsys.readouterr().out
    assert "not installed: Absent (pip install surely-not)" in out
    assert "absent failed" not in out
    assert "broken failed: KeyError: 'broken'" in out
    assert [row for row in out.splitlines() if row.startswith("barlow  ") and " uint8 " in row]
    entries["broken"] = dataclasses.replace(broken, needs=())
    assert not bench.run(folder, settings), "a pipeline that needs nothing must not fail"


def test_a_lane_that_dies_or_hangs_says_so(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lane(_job(images, "decode")) as lane:
        lane.start()
        lane._process.kill()
        with pytest.raises(Failed, match="ended by SIGKILL"):
            lane.round(1)
    monkeypatch.setattr("barlow.bench.lanes.START_LIMIT_S", 0.0)
    with Lane(_job(images, "decode")) as lane, pytest.raises(Failed, match="no answer within 0 s"):
        lane.start()


def _processes_of(parent: int) -> set[int]:
    """Children of a process and theirs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = set(), {parent}
    while new:
        new = {process for process, its in parents.items() if its in new} - found
        found |= new
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_process_and_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    flags = ("--rounds", 100_000, "--threads", 1, "--only", "barlow,decode")
    process = start("bench", "loader", folder, *flags, anew=True)
    deadline = time.monotonic() + 60
    while len(lanes := _processes_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.glob("barlow-bench-*"))
    process.send_signal(number)
    assert finish(process, timeout_s=30).code == 128 + number
    assert len(lanes) >= 2
    assert not [lane for lane in lanes if Path(f"/proc/{lane}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_is_one_line(images: Images, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 and nothing more")
    job = dataclasses.replace(_job(images, "official"), files=[str(tmp_path / "bad.jpg")] * 8)
    with Lane(job) as lane:
        lane.start()
        with pytest.raises(Failed, match="UnidentifiedImageError: cannot identify") as reason:
            lane.round(0)
    assert "\n" not in str(reason.value)


def test_physical_cores_come_first() -> None:
    assert machine.spread([0, 1, 2, 3], ["0-1", "0-1", "2-3", "2-3"]) == [0, 2, 1, 3]
    assert machine.spread([4, 7], ["4", "7"]) == [4, 7]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--threads", "1,two"], "--threads must be whole numbers and commas"),
        (["--threads", "4000"], "--threads 4000: this process may use"),
        (["--threads", "0"], "--threads 0: this process may use"),
        (["--only", "barlow,dalli"], "no pipeline 'dalli', only barlow, official"),
        (["--picture", "bars.pdf"], "--picture must end in .svg or .png"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--batch-size", "-1"], "--batch-size must be at least 0"),
        (["--images", "-1"], "--images must be at least 0"),
        (["--size", "-1"], "--size must be at least 0"),
        (["--batch-size", "64"], "32 images are too few for"),
    ],
)
def test_a_mistake_is_told_at_once(
    capfd: pytest.CaptureFixture[str], folder: Path, flags: list[str], complaint: str
) -> None:
    told = barlow_here(capfd, "bench", "loader", folder, *flags)
    assert told.code == 2
    assert complaint in told.err
    assert told.out == ""
