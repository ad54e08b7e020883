"""Here: `make demo`: the main job from pictures to a report, by the commands that anyone would type.

Not here: any work of its own beyond choosing those commands; each is printed before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from barlow import durable, synthetic
from barlow.config import Config, demo, load
from barlow.data import DataError, open_index
from barlow.evaluate.result import read as read_evaluation
from barlow.terminal import short

HELD_OUT_SHARE = 0.15
NUM_SHARDS = 4
_HELD_OUT_FOLDERS = ("held-out", "val", "test")


def main(data: Path | None, run: Path, nproc: int = 2, train_flags: Sequence[str] = ()) -> None:
    """Packs `data` (None: the synthetic shapes), trains, evaluates, exports and reports into `run`.

    `data` is a folder of images, a tar, or a folder with `train/` beside `held-out/`, `val/` or `test/`.
    The shards go to `run`-data. A run that is there is gone on with if it fits (a finished one is only
    evaluated again), and moved aside if it does not. `ValueError`, before anything is written,
    for paths that cannot be meant; `SystemExit` with the code of the command that failed.
    """
    begin = time.monotonic()
    check(data, run)
    kept = _kept(run)
    # Shards of the synthetic pictures carry a README, which those of other pictures must not inherit.
    out = kept / ("synthetic-shards" if data is None else "shards")
    source = _synthetic_pictures(kept / "synthetic-shapes") if data is None else data
    shards = _pack(source, out)
    if data is None:
        # What the pictures are goes with the shards: the report says it too.
        shutil.copy(source / "README.md", shards)
    num_images, digest = _describe(shards / "train")
    config = _scaled_to(num_images)
    _make_room(run, None if train_flags else config, digest)
    _barlow("train", shards / "train", *_flags(config), *train_flags, "--run", run, "--nproc", nproc)
    _barlow("eval", run, shards / "train", "--held-out", shards / "held-out")
    exported = run / "export"
    _barlow("export", run, exported, "--format", "torchvision", *_overwrite(exported))
    _barlow("report", run)
    _summary(run, time.monotonic() - begin)


def check(data: Path | None, run: Path) -> None:
    """`ValueError` for whatever could cost the user a file: the demo replaces shards and moves runs aside."""
    if run.exists() and not (run / "config.json").is_file() and not (run.is_dir() and not any(run.iterdir())):
        raise ValueError(f"--run {run} is neither empty nor a run of barlow")
    if data is None:
        return
    if not data.exists():
        raise ValueError(f"--data {data} does not exist")
    source = data.resolve()
    for target in (run.resolve(), (_kept(run) / "shards").resolve()):
        if source == target or source in target.parents or target in source.parents:
            raise ValueError(
                f"--data {data} and what the demo writes ({short(target)}) overlap; choose another --run"
            )


def _kept(run: Path) -> Path:
    """Where the demo puts what it makes of the pictures."""
    return run.with_name(f"{run.name}-data")


def _synthetic_pictures(out: Path) -> Path:
    if not out.exists():
        _run(["python", "-m", "barlow.synthetic", short(out)], ["-m", "barlow.synthetic", str(out)])
    return out


def _pack(source: Path, out: Path) -> Path:
    """`out`/train and `out`/held-out, always packed anew: it takes seconds, and `source` may have changed.

    `barlow pack` replaces nothing but what it wrote itself.
    """
    test_folder = next((source / name for name in _HELD_OUT_FOLDERS if (source / name).is_dir()), None)
    if (source / "train").is_dir() and test_folder is not None:
        train, held_out = out / "train", out / "held-out"
        _barlow("pack", source / "train", train, "--min-shards", NUM_SHARDS, *_overwrite(train))
        _barlow("pack", test_folder, held_out, *_overwrite(held_out))
    else:
        share = ("--held-out", HELD_OUT_SHARE)
        _barlow("pack", source, out, *share, "--min-shards", NUM_SHARDS, *_overwrite(out))
    return out


def _overwrite(out: Path) -> tuple[str, ...]:
    return ("--overwrite",) if out.exists() else ()


def _describe(shards: Path) -> tuple[int, str]:
    """Number of images and digest of the index."""
    try:
        index = open_index(shards)
    except (DataError, OSError) as error:
        raise SystemExit(f"demo: {error}") from error
    return len(index), index.digest()


def _scaled_to(num_images: int) -> Config:
    """The demo's config with about the optimizer steps of the synthetic shapes, for any number of images."""
    config = demo()
    optim, batch_size = config.optim, config.optim.batch_size
    while batch_size > 4 and batch_size > num_images // 2:
        batch_size //= 2
    steps = optim.epochs * (synthetic.SPLITS["train"] // optim.batch_size)
    epochs = max(1, round(steps / max(1, num_images // batch_size)))
    warmup = round(optim.warmup_epochs * epochs / optim.epochs, 3)
    return replace(config, optim=replace(optim, batch_size=batch_size, epochs=epochs, warmup_epochs=warmup))


def _flags(config: Config) -> list[str]:
    """What turns the preset into `config`."""
    preset, flags = demo(), ["--preset", "demo"]
    for name in ("batch_size", "epochs", "warmup_epochs"):
        value = getattr(config.optim, name)
        if value != getattr(preset.optim, name):
            flags += [f"--optim.{name.replace('_', '-')}", str(value)]
    return flags


def _make_room(run: Path, config: Config | None, digest: str) -> None:
    """Moves a run aside that `barlow train` could not go on with: other images, another config (or None)."""
    if not run.exists():
        return
    try:
        saved = load(run / "config.json")
        same_data = durable.read_json(run / "run.json")["index_digest"] == digest
    except (OSError, ValueError, KeyError):
        saved, same_data = None, False  # not a run, or one that never began
    if same_data and saved == config:
        return
    number = next(n for n in range(1, sys.maxsize) if not run.with_name(f"{run.name}-{n}").exists())
    aside = run.with_name(f"{run.name}-{number}")
    run.rename(aside)
    print(f"{short(run)} held another run; it is {short(aside)} now", flush=True)


def _barlow(*words: object) -> None:
    """Runs a subcommand as a process of its own, exactly as printed."""
    arguments = [str(word) for word in words]
    shown = [short(word) if isinstance(word, Path) else str(word) for word in words]
    _run(["barlow", *shown], ["-m", "barlow", *arguments])


def _run(shown: list[str], arguments: list[str]) -> None:
    print(f"\n$ {shlex.join(shown)}", flush=True)
    code = subprocess.run([sys.executable, *arguments], check=False).returncode
    if code:
        print(f"demo: {shlex.join(shown[:2])} failed with exit code {code}", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def _summary(run: Path, seconds: float) -> None:
    result = read_evaluation(run / "eval.json")
    rows = (
        ("Barlow Twins", result),
        ("untrained", result["untrained"]),
        ("raw pixels", result["raw_pixels"]),
    )
    print("\nAccuracy on held-out images, percent:")
    print(f"  {'':14}{'kNN':>8}{'linear':>9}")
    for name, row in rows:
        print(f"  {name:14}{_top1(row, 'knn'):>8}{_top1(row, 'linear'):>9}")
    if result.get("reason"):
        print(f"  ({result['reason']})")
    print()
    for what, path in (
        ("numbers", run / "eval.json"),
        ("weights", run / "export"),
        ("report", run / "report.html"),
    ):
        print(f"  {what:10}{short(path)}")
    print(f"\ndone in {seconds / 60:.1f} minutes; the report opens in any browser")


def _top1(row: dict[str, dict[str, float | None] | None] | None, probe: str) -> str:
    value = ((row or {}).get(probe) or {}).get("top1")
    return "-" if value is None else f"{value:.1f}"


def _command_line() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m barlow.demo", description="From pictures to a trained, evaluated, exported backbone."
    )
    parser.add_argument("--data", type=Path, help="a folder of images or a tar (default: synthetic shapes)")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run folder (default runs/demo)")
    parser.add_argument("--nproc", type=int, default=2, help="training processes (default 2)")
    known, train_flags = parser.parse_known_args()
    try:
        check(known.data, known.run)
    except ValueError as error:
        parser.error(str(error))
    main(known.data, known.run, known.nproc, train_flags)


if __name__ == "__main__":
    _command_line()
