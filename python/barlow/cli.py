"""Here: the `barlow` command: its subcommands, their flags and help, and how errors reach the terminal.

Not here: any work. What a subcommand does is imported when it runs, so `--help` is instant.
"""

from __future__ import annotations

import contextlib
import functools
import io
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro

from barlow import __version__
from barlow.bench import Settings
from barlow.config import PRESETS, Config, load
from barlow.terminal import bar, notes, one_line, show_warning, unboxed, worded_here
from barlow.train.launch import CONFIG_FILE, follow_launcher

Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
Data = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
Target = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|WEIGHTS")]
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]

_MAX_THREADS = 4096
"""As many as the loader takes."""


def pack(
    source: Source,
    out: Out,
    *,
    shard_mb: int = 256,
    min_shards: int = 1,
    held_out: float = 0.0,
    on_error: Literal["raise", "skip"] = "raise",
    members: bool = True,
    decode: bool = True,
    overwrite: bool = False,
    threads: int = 0,
) -> None:
    """Packs images into tar shards with an index, decoding each one once to prove it.

    Args:
        source: Folder of class folders, flat folder, tar of class folders, or (folder of) WebDataset tars.
        out: New folder for the shards; it appears complete or not at all.
        shard_mb: Largest shard in MiB.
        min_shards: Fewest shards, however small.
        held_out: Share of each class that goes to OUT/held-out, the rest to OUT/train; 0: no such split.
        on_error: What an image that can't be decoded does: end the command, or be left out and listed.
        members: Keep other files of an image's stem beside it (0001.json of 0001.jpg).
        decode: Prove images by decoding them; without, only headers are looked at, at the speed of the disk.
        overwrite: Replace what an earlier pack left at OUT.
        threads: Decoding threads; 0 is all cores.
    """
    from barlow.data import pack

    _check("--shard-mb", shard_mb, 1, 1 << 20)
    _check("--min-shards", min_shards, 1, 1 << 20)
    _check("--threads", threads, 0, _MAX_THREADS)
    with bar("packing") as progress, _hint(on_error):
        report = pack(
            source,
            out,
            shard_bytes=shard_mb << 20,
            min_shards=min_shards,
            held_out=held_out,
            on_error=on_error,
            members=members,
            decode=decode,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    if report["classes_without_training"]:
        warnings.warn(
            f"{report['classes_without_training']} classes have their only image in {out / 'held-out'}",
            stacklevel=1,
        )
    _print(report)


@contextlib.contextmanager
def _hint(on_error: str) -> Iterator[None]:
    """Says what to do about an image that can't be decoded."""
    from barlow.data import DataError

    try:
        yield
    except DataError as error:
        if on_error == "raise" and error.kind in ("image", "limit"):
            raise ValueError(f"{one_line(error)}; --on-error skip leaves such images out") from error
        raise


def index(source: Source, out: Path | None = None, *, members: bool = True, threads: int = 0) -> None:
    """Indexes tars or folders of images where they are, rewriting nothing.

    Args:
        source: A tar, a folder of tars, or a folder of images.
        out: Where the index goes; by default beside the data, where every command looks for it.
        members: Record other files of an image's stem (0001.json of 0001.jpg), which costs reading them.
        threads: Reading threads; 0 is all cores.
    """
    from barlow.data import index_source

    _check("--threads", threads, 0, _MAX_THREADS)
    with bar("indexing") as progress:
        path = index_source(source, out, threads=threads, progress=progress, members=members)
    print(path)


def verify(source: Source, *, threads: int = 0, json: bool = False) -> None:
    """Reads and decodes every image and lists those that are damaged; exit code 1 if there are any.

    Args:
        source: Shards, or anything else that can be trained on.
        threads: Decoding threads; 0 is all cores.
        json: Print one JSON object instead of lines.
    """
    from barlow.data import open_index
    from barlow.data.verify import as_json, damaged

    _check("--threads", threads, 0, _MAX_THREADS)
    opened = open_index(source)
    with bar("verifying") as progress:
        found = damaged(opened, threads=threads, progress=progress)
    if json:
        print(dumps(as_json(opened, found), indent=2))
    else:
        for _, error in found:
            print(one_line(error))
        print(f"{len(opened)} images, {len(found)} damaged")
    if found:
        raise SystemExit(1)


def unpack(source: Source, out: Out) -> None:
    """Writes the original files back, byte for byte.

    Args:
        source: Packed shards.
        out: New folder for the files.
    """
    from barlow.data import unpack

    with bar("unpacking") as progress:
        report = unpack(source, out, progress=progress)
    _print(report)


def _train(default: Config) -> Callable[..., None]:
    """The subcommand with one config's values as the defaults of its flags."""

    def train(
        data: Data,
        *,
        run: Path,
        preset: Annotated[str | None, tyro.conf.arg(metavar="|".join(PRESETS))] = None,
        nproc: int = 0,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Trains a backbone, or goes on with a run from its newest checkpoint.

        Every field of the config is a flag; the defaults shown are those of --preset. Inside torchrun or
        srun this process is one rank: `torchrun --nproc-per-node 2 -m barlow -- train DATA --run DIR ...`
        (without `--`, older Pythons let torchrun claim flags of ours that begin like its own).

        Args:
            data: Shards, or a tar or folder of images.
            run: Folder of the run: new, or one to go on with (then --preset may be left out).
            preset: Recipe that the other flags change.
            nproc: Processes on this machine; 0 is one for each GPU, or one.
            config: The recipe.
        """
        if preset is None and not (run / CONFIG_FILE).exists():
            raise ValueError(f"--preset is needed to start a run: one of {', '.join(PRESETS)}")
        _check("--nproc", nproc, 0, _MAX_THREADS)
        from barlow.train import launch

        launch(data, config, run, nproc=nproc, preset=preset)

    return train


def evaluate(
    target: Target,
    data: Data,
    *,
    held_out: Path | None = None,
    out: Path | None = None,
    baselines: bool = True,
) -> None:
    """Measures a backbone by kNN and a linear probe on held-out images, in percent.

    Args:
        target: Run folder, or exported weights (safetensors).
        data: Images with labels to train the probes on; without any label, only what needs none is measured.
        held_out: Images to test on; by default those that were packed as held-out, else a fifth of DATA.
        out: File for the result; by default RUN/eval.json.
        baselines: Also measure the untrained network and the raw pixels.
    """
    from barlow.evaluate import evaluate

    evaluate(target, data, held_out=held_out, out=out, baselines=baselines)


def export(
    target: Target, out: Out, *, format: Literal["torchvision", "safetensors"] = "torchvision"
) -> None:
    """Writes the backbone's weights for other libraries, with a model card, and checks that they work.

    Args:
        target: Run folder: its newest checkpoint that is whole.
        out: Folder, or a file that ends in .safetensors; the card, a .md file, goes beside it.
        format: Both are safetensors files with torchvision's names. torchvision: loads strictly into
            torchvision.models.resnet*, so the width must be 64; safetensors: any backbone, for barlow.model.
    """
    from barlow.export import export

    export(target, out, format)


def report(run: Run, *, out: Path | None = None) -> None:
    """Draws a run as one HTML file: curves, views, cross-correlation, nearest neighbours.

    Args:
        run: Run folder.
        out: File to write; by default RUN/report.html.
    """
    from barlow.report import write

    print(write(run, out, progress=lambda title: print(f"drawing: {title}", file=sys.stderr, flush=True)))


def bench(
    what: tyro.conf.Positional[Literal["loader"]],
    data: Data,
    *,
    settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings(),  # noqa: B008
) -> None:
    """Measures data loading on this machine, beside the peers that are installed.

    Rounds of all pipelines alternate. One that is not installed is listed, one that fails is reported; exit
    code 1 if barlow or the official pipeline fails.

    Args:
        what: loader: from images to batches of views.
        data: Shards, or a tar or folder of images.
        settings: What is measured.
    """
    from barlow.bench import run

    with bar("measuring") as progress:
        succeeded = run(data, settings, command=shlex.join(["barlow", *sys.argv[1:]]), progress=progress)
    if not succeeded:
        raise SystemExit(1)


def demo(*, data: Path | None = None, run: Path = Path("runs/demo"), nproc: int = 2) -> None:
    """Does the whole job in minutes: pack, train, evaluate, export, report.

    Args:
        data: Folder of images or tar to use instead of the synthetic images.
        run: Folder of the run.
        nproc: Training processes.
    """
    from barlow.demo import main

    _check("--nproc", nproc, 1, _MAX_THREADS)
    main(data, run, nproc)


def main() -> None:
    """The `barlow` command. Exit code 0 on success, 2 for a mistake in the input, 130 after Ctrl-C."""
    warnings.showwarning = show_warning
    try:
        with notes():
            follow_launcher()
            _parse(sys.argv[1:])()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail("interrupted", 130)
    except FloatingPointError as error:
        _fail(f"error: {one_line(error)}", 1)
    except ValueError as error:
        if not worded_here(error.__traceback__):
            raise
        _fail(f"error: {one_line(error)}", 2)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"error: {error.filename}: {error.strerror}", 2)


def _parse(arguments: list[str]) -> Callable[[], None]:
    """The call that the command line asks for. `ValueError` in one line for what it cannot mean."""
    if arguments in (["--version"], ["-V"]):
        return lambda: print(f"barlow {__version__}")
    commands = {
        "pack": pack,
        "index": index,
        "verify": verify,
        "unpack": unpack,
        "train": _train(_defaults(arguments) if arguments[:1] == ["train"] else Config()),
        "eval": evaluate,
        "export": export,
        "report": report,
        "bench": bench,
        "demo": demo,
    }
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(command) for name, command in commands.items()},
                prog="barlow",
                description="Barlow Twins: a vision backbone out of a heap of unlabelled images. "
                "`barlow COMMAND --help` explains a command, `barlow --version` names the version.",
                args=arguments or ["--help"],
            )
    except SystemExit as stop:
        if stop.code:
            raise ValueError(unboxed(errors.getvalue())) from None
        raise SystemExit(0 if arguments else 2) from None  # no command is not a success


def _defaults(arguments: list[str]) -> Config:
    """The config whose values are the flags' defaults: the preset's, or that of the run to go on with."""
    preset, run = (_flag(arguments, name) for name in ("--preset", "--run"))
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}, only {', '.join(PRESETS)}")
        return PRESETS[preset]()
    saved = Path(run) / CONFIG_FILE if run else None
    return load(saved) if saved and saved.is_file() else Config()


def _flag(arguments: list[str], name: str) -> str | None:
    for flag, value in zip(arguments, [*arguments[1:], None], strict=True):
        if flag == name:
            return value
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2]
    return None


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Looks like the command but puts the call off, so that errors of parsing and of running stay apart."""

    @functools.wraps(command)
    def bind(*positional: Any, **keywords: Any) -> Callable[[], None]:
        return functools.partial(command, *positional, **keywords)

    return bind


def _check(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{flag} must lie between {low} and {high}, not {value}")


def _fail(text: str, code: int) -> NoReturn:
    print(f"barlow: {text}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _print(report: dict[str, Any]) -> None:
    for name, value in report.items():
        print(f"{name}: {value}")
