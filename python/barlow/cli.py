"""Here: the `barlow` command: train, doctor, demo, the list of subcommands, how errors reach the terminal.

Not here: any work (what a subcommand does is imported when it runs, so `--help` is instant); the subcommands
about images, about runs that exist and about measuring, in files of their own.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

from barlow import __version__
from barlow.ablations import ABLATIONS, METHODS
from barlow.commands import (
    bench,
    detection,
    evaluation,
    images,
    listing,
    rehearsal,
    replays,
    reproduction,
    runs,
    submit,
    weights,
)
from barlow.commands.arguments import MAX_EPOCHS, MAX_THREADS, Data, check
from barlow.commands.parsing import choose, overview, parse
from barlow.config import PRESETS, Config, load
from barlow.terminal import notes, one_line, show_warning, worded_here
from barlow.train.beginning import Beginning
from barlow.train.launch import CONFIG_FILE
from barlow.train.ranks import follow_launcher


def _train(default: Config) -> Callable[..., None]:
    """The subcommand with one config's values as the defaults of its flags."""

    def train(
        data: Data,
        *,
        run: Path,
        preset: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(PRESETS)}}}")] = None,
        method: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
        ablation: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
        nproc: int = 0,
        resume: Literal["auto", "must", "never"] = "auto",
        extend_to: Annotated[int, tyro.conf.arg(metavar="EPOCHS")] = 0,
        init_from: Annotated[Path | None, tyro.conf.arg(metavar="RUN|WEIGHTS")] = None,
        allow_changes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
        dry_run: bool = False,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Trains a backbone, or goes on from a run's newest checkpoint.

        Every field of the config is a flag; the defaults shown are those of --preset. Inside torchrun or
        srun this process is one rank: `torchrun --nproc-per-node 2 -m barlow -- train DATA --run DIR ...`
        (without `--`, older Pythons let torchrun claim flags of ours that begin like its own).

        SIGTERM or SIGUSR1 to any process: all finish the step, a checkpoint is written, and the exit code is
        143 or 138; the same command goes on. A second signal, a second later or more, ends all at once.

        Args:
            data: Shards, or a tar or folder of images.
            run: Folder of the run: new, or one to go on with (then --preset may be left out).
            preset: Recipe that the other flags change.
            method: Train by another method than Barlow Twins, such as byol or vicreg (docs/ablations.md).
            ablation: A row of the paper's ablations, such as crop-only or batch-256 (docs/ablations.md).
            nproc: Processes on this machine; 0 is one for each GPU, or one.
            resume: auto goes on from the newest checkpoint if there is one, must fails without one, never
                fails with one: no run is ever begun anew over checkpoints.
            extend_to: Give a run with checkpoints, finished or not, so many epochs in all; 0: as many as it
                has. From its next step on the learning rate is that of the new total: past warm-up it rises.
            init_from: Begin with the backbone of another run or file of weights, and with its projector if
                that fits; optimizer and schedule begin anew.
            allow_changes: What may be another than when the run was started: fields of the config, such as
                optim.momentum, or barlow, code, views, data, order. The run's record keeps what was changed.
            dry_run: Write nothing: take 20 steps, throw them away, and say what the run is going to be: its
                config, parameters, memory, steps and time.
            config: The recipe.
        """
        if preset is None and not (run / CONFIG_FILE).exists():
            raise ValueError(f"--preset is needed to start a run: one of {', '.join(PRESETS)}")
        check("--nproc", nproc, 0, MAX_THREADS)
        check("--extend-to", extend_to, 0, MAX_EPOCHS)
        if dry_run:
            rehearsal.show(data, config, run, nproc)
            return
        from barlow.train import launch

        recipe = " + ".join(filter(None, (preset, method, ablation)))
        begin = Beginning(resume, extend_to, init_from, allow_changes)
        launch(data, config, run, nproc=nproc, preset=recipe or None, begin=begin, judge=_judge)

    return train


def _judge(*arguments: Any) -> Any:
    from barlow.evaluate.online import online_knn

    return online_knn(*arguments)


def doctor(
    *, nproc: Annotated[int, tyro.conf.arg(name="ranks", aliases=("--nproc",))] = 0, json: bool = False
) -> None:
    """Examines whether several processes give the gradient of one here.

    Exit code 0 only if all is well. Also `torchrun --nproc-per-node 8 -m barlow doctor`, on as many machines
    as training is to run on.

    Args:
        nproc: Processes to start here; 0 is one for each GPU, but at least 2.
        json: Print one JSON object instead of lines.
    """
    from barlow.doctor import diagnose

    check("--nproc", nproc, 0, MAX_THREADS)
    if not diagnose(nproc, as_json=json):
        raise SystemExit(1)


def demo(*, data: Path | None = None, run: Path = Path("runs/demo"), nproc: int = 2) -> None:
    """Packs, trains, evaluates, exports and reports, in minutes.

    Args:
        data: Folder of images or tar to use instead of the synthetic images.
        run: Folder of the run.
        nproc: Training processes.
    """
    from barlow.demo import main

    check("--nproc", nproc, 1, MAX_THREADS)
    main(data, run, nproc)


def main() -> None:
    """The `barlow` command. Exit code 0 on success, 2 for a mistake in the input, 130 after Ctrl-C, 143 or
    138 after the SIGTERM or SIGUSR1 that stopped what can go on."""
    warnings.showwarning = show_warning
    try:
        with notes():
            follow_launcher()
            _parse(sys.argv[1:])()
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail(str(stop) or "interrupted", 130)
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
    prog, about, groups = "barlow", _ABOUT, _commands(arguments)
    name, *rest = arguments or [""]
    if name == "bench":
        prog, about, groups = "barlow bench", _bench.__doc__ or "", {"what to measure": _MEASURED}
        name, *rest = rest or [""]
    if name in ("", "-h", "--help"):
        overview(prog, about, groups)
        raise SystemExit(0 if name else 2)  # no command is not a success
    command = choose({name: each for group in groups.values() for name, each in group.items()}, prog, name)
    return parse(command, f"{prog} {name}", rest, evaluation.NO_PART if name == "eval" else None)


_ABOUT = """Barlow Twins: a vision backbone out of a heap of unlabelled images.

`barlow COMMAND --help` explains a command, `barlow --version` names the version."""
_MEASURED = {"loader": bench.loader, "step": bench.step, "loss": bench.loss}


def _commands(arguments: list[str]) -> dict[str, dict[str, Callable[..., None]]]:
    """All commands by group, as `barlow --help` lists them."""
    return {
        "images": {
            "pack": images.pack,
            "index": images.index,
            "verify": images.verify,
            "unpack": images.unpack,
        },
        "training": {
            "train": _train(_defaults(arguments) if arguments[:1] == ["train"] else Config()),
            "submit": submit.submitting(_defaults(arguments) if arguments[:1] == ["submit"] else Config()),
            "runs": listing.list_runs,
            "report": runs.report,
            "replay": replays.replay,
            "import": runs.import_run,
        },
        "a trained backbone": {
            "eval": evaluation.evaluating(_evaluated(arguments)),
            "detect": detection.detect,
            "embed": weights.embed,
            "export": weights.export,
        },
        "from beginning to end": {"demo": demo, "reproduce": reproduction.reproduce},
        "this machine": {"doctor": doctor, "bench": _bench},
    }


def _bench() -> None:
    """Measures loading, a training step or the loss beside the official ways."""


def _defaults(arguments: list[str]) -> Config:
    """The config whose values are the flags' defaults: the preset's, or that of the run to go on with; then
    with the changes that --method and --ablation name."""
    preset, run = (_flag(arguments, name) for name in ("--preset", "--run"))
    saved = Path(run) / CONFIG_FILE if run else None
    config = Config()
    if preset is not None:
        config = _named(PRESETS, "preset", preset)()
    elif saved and saved.is_file():
        config = load(saved)
    for kind, changes in (("method", METHODS), ("ablation", ABLATIONS)):
        if (name := _flag(arguments, f"--{kind}")) is not None:
            config = _named(changes, kind, name).applied(config)
    return config


def _evaluated(arguments: list[str]) -> Config:
    """The config of the run that is to be evaluated: its values are the defaults of eval's flags."""
    if arguments[:1] != ["eval"]:
        return Config()
    found: list[Path] = []

    @functools.wraps(evaluation.evaluating(Config()))
    def note(target: Path, *_: Any, **__: Any) -> None:
        found.append(target)

    words = [word for word in arguments[1:] if word not in ("--help", "-h")]
    for rest in ((), ("DATA",)):  # `barlow eval RUN --help` need not name any
        with contextlib.suppress(ValueError, SystemExit):  # the parse that counts has the same to say
            parse(note, "barlow eval", [*words, *rest])()
            break
    return evaluation.config_of(found[0]) if found else Config()


T = TypeVar("T")


def _named(things: Mapping[str, T], kind: str, name: str) -> T:
    if name not in things:
        raise ValueError(f"there is no {kind} {name!r}, only {', '.join(things)}")
    return things[name]


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of a flag; of one that is given twice the last, as everywhere on the command line."""
    found = None
    for flag, value in zip(arguments, [*arguments[1:], None], strict=True):
        if flag == name:
            found = value
        elif flag.startswith(f"{name}="):
            found = flag.partition("=")[2]
    return found


def _fail(text: str, code: int) -> NoReturn:
    print(f"barlow: {text}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None
