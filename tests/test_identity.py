"""What a run that goes on must share with its beginning, and how to change something all the same."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from barlow.config import Config, load
from barlow.data import Index, open_index
from barlow.train import identity
from barlow.train.beginning import Beginning
from barlow.train.launch import check, prepare
from commands import TINY, barlow_here, make_images, metrics, the_error

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_images(tmp_path_factory.mktemp("images"))
    Index.scan(folder).write(folder)
    return folder


def small(**optim: Any) -> Config:
    return replace(Config(), optim=replace(Config().optim, **optim))


def allowing(*names: str) -> Beginning:
    return Beginning(allow_changes=names)


def begun(images: Path, run: Path, config: Config) -> tuple[Index, Path]:
    """A run as far as its record goes: with a checkpoint by name."""
    index = open_index(images)
    prepare(run, config, images, index, 1, None, device=None)
    (run / "checkpoints" / "step-00000007").mkdir(parents=True)
    return index, run


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_each_change_is_named_and_can_be_allowed(images: Path, tmp_path: Path) -> None:
    index, run = begun(images, tmp_path / "run", small(batch_size=8))
    changed = small(batch_size=8, momentum=0.8, epochs=7)
    with pytest.raises(ValueError, match="with another config") as caught:
        check(changed, index, 1, run)
    assert "optim.epochs is 1000 there and 7 here; optim.momentum is 0.9 there and 0.8 here" in str(
        caught.value
    )
    assert str(caught.value).endswith("--allow-changes optim.epochs optim.momentum")
    with pytest.raises(ValueError, match=r"config: optim\.epochs is 1000 there and 7 here; choose"):
        check(changed, index, 1, run, allowing("optim.momentum"))
    allowed = check(changed, index, 1, run, allowing("optim.momentum", "optim.epochs", "train.seed"))
    assert [change.name for change in allowed] == ["optim.epochs", "optim.momentum"]
    assert check(small(batch_size=8), index, 1, run, allowing("optim.momentum")) == []  # nothing has changed
    prepare(run, changed, images, index, 1, None, device=None, changes=allowed)
    assert record(run)["changes"] == [
        {"after_step": 7, "name": "optim.epochs", "before": 1000, "now": 7},
        {"after_step": 7, "name": "optim.momentum", "before": 0.9, "now": 0.8},
    ]
    assert check(changed, index, 1, run) == []  # it is the run's own now
    back = check(small(batch_size=8, epochs=7), index, 1, run, allowing("optim.momentum"))
    prepare(run, small(batch_size=8, epochs=7), images, index, 1, None, device=None, changes=back)
    assert [change["now"] for change in record(run)["changes"]] == [7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("attribute", "name", "message"),
    [
        (
            "VIEWS_VERSION",
            "views",
            r"by other code: views is \d+ there and 99 here; .*--allow-changes views$",
        ),
        ("__version__", "barlow", r"by other code: barlow is [\d.]+\S* there and 99 here; .* barlow$"),
    ],
)
def test_other_code_is_refused_and_can_be_allowed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, name: str, message: str
) -> None:
    config = small(batch_size=8)
    index, run = begun(images, tmp_path / "run", config)
    monkeypatch.setattr(identity, attribute, 99)
    with pytest.raises(ValueError, match=message):
        check(config, index, 1, run)
    assert [change.name for change in check(config, index, 1, run, allowing(name))] == [name]
    versions = record(run)["versions"]
    assert versions.keys() >= {"barlow", "views", "torch"}
    monkeypatch.setattr(identity, attribute, versions[name])
    assert check(config, index, 1, run) == []


def test_other_files_of_the_same_version_are_told_of_and_recorded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    config = small(batch_size=8)
    index, run = begun(images, tmp_path / "run", config)
    before = record(run)["versions"]["code"]
    assert re.fullmatch("[0-9a-f]{16}", before)
    monkeypatch.setattr(identity, "digest_of_files", lambda: "edited")
    found = check(config, index, 1, run)
    assert [change.name for change in found] == ["code"]
    prepare(run, config, images, index, 1, None, device=None, begin=allowing("code"), changes=found)
    assert not recwarn.list
    assert record(run)["changes"] == [{"after_step": 7, "name": "code", "before": before, "now": "edited"}]
    assert check(config, index, 1, run) == []  # they are the run's own now
    monkeypatch.setattr(identity, "digest_of_files", lambda: "again")
    with pytest.warns(UserWarning, match="same version of barlow: code is edited there and again here"):
        prepare(run, config, images, index, 1, None, device=None, changes=check(config, index, 1, run))
    monkeypatch.setattr(identity, "__version__", "99")  # whose files are others anyway
    with pytest.raises(ValueError, match=r"barlow is [\d.]+\S* there and 99 here; choose .* barlow$"):
        check(config, index, 1, run)


def test_every_file_of_the_package_counts(tmp_path: Path) -> None:
    package = tmp_path / "barlow"
    (package / "train" / "__pycache__").mkdir(parents=True)
    names = ("cli.py", "train/loop.py", "_native.abi3.so")
    for name in names:
        (package / name).write_text(name)
    digest = identity.digest_of_files.__wrapped__
    first = digest(package)
    (package / "train" / "__pycache__" / "loop.pyc").write_text("compiled")
    (package / "notes.txt").write_text("of no account")
    assert digest(package) == first
    found = {first}
    for name in names:
        (package / name).write_text(name + " edited")
        found.add(digest(package))
    (package / "cli.py").rename(package / "client.py")
    assert len({*found, digest(package)}) == 5
    begin_s = time.process_time()
    digest()
    assert time.process_time() - begin_s < 0.1  # 20 ms


def test_another_order_of_the_same_data_is_refused(images: Path, tmp_path: Path) -> None:
    """As a later version would have it that walks the same images in another order."""
    config = small(batch_size=8)
    index, run = begun(images, tmp_path / "run", config)
    found = record(run)
    (run / "run.json").write_text(json.dumps({**found, "order_digest": "0123"}))
    with pytest.raises(ValueError, match=rf"order is 0123 there and {found['order_digest']} here"):
        check(config, index, 1, run)
    # Where the seed is another one the order is too, which needs no words of its own.
    reseeded = replace(config, train=replace(config.train, seed=5))
    assert [c.name for c in check(reseeded, index, 1, run, allowing("train.seed"))] == ["train.seed"]
    older = {name: value for name, value in found.items() if name not in ("order_digest", "changes")}
    del older["versions"]["views"]
    (run / "run.json").write_text(json.dumps(older))  # what an older version wrote down is all that is known
    assert check(config, index, 1, run) == []


def test_other_data_can_be_allowed_by_name(images: Path, tmp_path: Path) -> None:
    config = small(batch_size=8)
    _, run = begun(images, tmp_path / "run", config)
    other = Path(shutil.copytree(images, tmp_path / "other"))
    (other / "barlow.index").unlink()
    make_images(other / "c", num_images=1)
    changed = open_index(other)
    with pytest.raises(ValueError, match=r"was started on other data \(48 images .*--allow-changes data$"):
        check(config, changed, 1, run)
    assert [change.name for change in check(config, changed, 1, run, allowing("data"))] == ["data"]


def test_a_name_that_nothing_has_is_refused(images: Path, tmp_path: Path) -> None:
    for name in ("optim.momentun", "momentum", "optim", ""):
        with pytest.raises(ValueError, match=r"^--allow-changes .*: there is no such name"):
            check(small(batch_size=8), open_index(images), 1, tmp_path / "run", allowing(name))


def test_a_run_goes_on_with_another_momentum(images: Path, tmp_path: Path, capfd: Capture) -> None:
    run = tmp_path / "run"
    begin = ("train", images, "--run", run, *TINY, "--train.log_every", 1)
    assert barlow_here(capfd, *begin, "--train.steps", 2).code == 0
    go_on = ("train", images, "--run", run, "--train.steps", 4, "--optim.momentum", 0.5)
    refused = barlow_here(capfd, *go_on)
    assert refused.code == 2
    assert "optim.momentum is 0.9 there and 0.5 here" in the_error(refused.err)
    result = barlow_here(capfd, *go_on, "--allow-changes", "optim.momentum")
    assert result.code == 0, result.err
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]
    assert load(run / "config.json").optim.momentum == 0.5
    assert record(run)["changes"] == [{"after_step": 2, "name": "optim.momentum", "before": 0.9, "now": 0.5}]
