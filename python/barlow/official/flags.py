"""Here: a command line of the official training script as a config of ours, and what became of each flag.

Not here: checkpoints, the command line of this package.

Names, types and defaults are those of main.py in facebookresearch/barlowtwins: of its newest version
(8e8d284, February 2022; the same since June 2021), and of the first release (f13c949, March 2021), which had
one learning rate for everything and multiplied the loss by --scale-loss.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from barlow.config import Config, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from barlow.optim import true_gradient_rates
from barlow.validation import validate_ranges

PAPERS_PROCESSES = 32
"""GPUs of the paper's runs. The official README says 16; the published weights do not say."""
BATCH_NORM_EPS = 1e-5
"""torch.nn.BatchNorm1d's, which normalises the embeddings there."""

_Defaults = dict[str, Any]
_CURRENT: _Defaults = {
    "workers": 8,
    "epochs": 1000,
    "batch-size": 2048,
    "learning-rate-weights": 0.2,
    "learning-rate-biases": 0.0048,
    "weight-decay": 1e-6,
    "lambd": 0.0051,
    "projector": "8192-8192-8192",
    "print-freq": 100,
    "checkpoint-dir": "./checkpoint/",
}
_FIRST_RELEASE: _Defaults = {
    **{name: value for name, value in _CURRENT.items() if not name.startswith("learning-rate")},
    "epochs": 300,
    "batch-size": 4096,
    "learning-rate": 0.2,
    "lambd": 3.9e-3,
    "scale-loss": 1 / 32,
}
_ONLY_FIRST_RELEASE = ("--learning-rate", "--scale-loss")


@dataclass(frozen=True)
class Translation:
    """A config and how it came about."""

    config: Config
    rows: list[tuple[str, str]]
    """(what the official run had, what it is here), one for each flag and for each constant in the script."""
    given: frozenset[str]
    """Names of the flags that the command line set; the others are the script's defaults."""
    loss_scale: float
    """What the loss was multiplied by: --scale-loss of the first release, 1 since."""


def translate(command: str = "", *, processes: int = PAPERS_PROCESSES) -> Translation:
    """The config of the run that `python main.py COMMAND` was on so many processes.

    `command` may be the flags alone, the whole command, or the first line of the run's stats.txt. Flags of
    the first release choose that version's defaults. The official gradient is 1/`processes` of the true one:
    that number becomes `optim.reference_world_size` (config.OptimConfig says what it does).

    With the loss multiplied by s, a weight steps along s * g / W + wd * p, scaled to its own norm: along
    g / W + (wd / s) * p just as well; and a bias by lr * s * g / W. So a run of the first release is one of
    today's with weight decay wd / s and the learning rate lr * s for biases.

    `ValueError` for a flag that main.py doesn't have or a value that can't be.
    """
    if processes < 1:
        raise ValueError(f"an official run has at least one process, not {processes}")
    tokens = _arguments(command)
    first_release = any(token.partition("=")[0] in _ONLY_FIRST_RELEASE for token in tokens)
    defaults = _FIRST_RELEASE if first_release else _CURRENT
    given = _parse(tokens, defaults)
    value = {**defaults, **given}
    scale = float(value.get("scale-loss", 1.0))
    if not scale > 0:
        raise ValueError(f"--scale-loss must be above 0, not {scale}")
    lr_weights = value["learning-rate" if first_release else "learning-rate-weights"]
    lr_biases = lr_weights * scale if first_release else value["learning-rate-biases"]
    base = Config()
    config = replace(
        base,
        model=ModelConfig(projector=_sizes(value["projector"])),
        objective=ObjectiveConfig(lambd=value["lambd"], eps=BATCH_NORM_EPS),
        optim=OptimConfig(
            batch_size=value["batch-size"],
            epochs=value["epochs"],
            lr_weights=lr_weights,
            lr_biases=lr_biases,
            weight_decay=value["weight-decay"] / scale,
            reference_world_size=processes,
        ),
        train=TrainConfig(log_every=value["print-freq"]),
    )
    validate_ranges(config)
    rows = [
        (f"--{name} {_short(value[name])}{'' if name in given else ' (default)'}", _became(name, config))
        for name in defaults
    ]
    return Translation(config, rows + _constants(config), frozenset(given), scale)


def _arguments(command: str) -> list[str]:
    """The words after the script's name, if the command has it."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"the flags can't be read: {error}") from error
    scripts = [place for place, word in enumerate(words) if word.endswith(".py")]
    return words[scripts[0] + 1 :] if scripts else words


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"flags of the official script: {message}")


def _parse(tokens: list[str], defaults: _Defaults) -> dict[str, Any]:
    """The flags that are set, by name; abbreviations work as they do there."""
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("data", nargs="?")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default))
    found = vars(parser.parse_args(tokens))
    return {name: found[key] for name in defaults if (key := name.replace("-", "_")) in found}


def _sizes(projector: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, projector.split("-")))
    except ValueError:
        raise ValueError(f"--projector must be sizes like 8192-8192-8192, not {projector!r}") from None


def _became(name: str, config: Config) -> str:
    """What a flag is in the config, in words where it is not one field with the same value."""
    optim = config.optim
    return {
        "workers": "not kept: data.threads shares the machine's cores",
        "epochs": f"optim.epochs {optim.epochs}",
        "batch-size": f"optim.batch_size {optim.batch_size}",
        "learning-rate": f"optim.lr_weights {_short(optim.lr_weights)}",
        "learning-rate-weights": f"optim.lr_weights {_short(optim.lr_weights)}",
        "learning-rate-biases": f"optim.lr_biases {_short(optim.lr_biases)}",
        "scale-loss": f"optim.lr_biases {_short(optim.lr_biases)} (rate * scale); weight decay / scale",
        "weight-decay": f"optim.weight_decay {_short(optim.weight_decay)}",
        "lambd": f"objective.lambd {_short(config.objective.lambd)}",
        "projector": f"model.projector {' '.join(map(str, config.model.projector))}",
        "print-freq": f"train.log_every {config.train.log_every}",
        "checkpoint-dir": "the run folder",
    }[name]


def _constants(config: Config) -> list[tuple[str, str]]:
    """What the script does without a flag for it."""
    optim, peak = config.optim, true_gradient_rates(config.optim)
    return [
        (
            f"gradient of 1/{optim.reference_world_size}, by {optim.reference_world_size} processes",
            f"optim.reference_world_size {optim.reference_world_size}: for the true gradient a peak rate of "
            f"biases of {_short(peak.lr_biases)} and a weight decay of {_short(peak.weight_decay)}",
        ),
        ("ResNet-50, 224 pixels", f"model.backbone {config.model.backbone}, data.image_size 224"),
        ("eps of BatchNorm1d", f"objective.eps {_short(config.objective.eps)}"),
        ("10 epochs of warm-up", f"optim.warmup_epochs {optim.warmup_epochs:g}"),
        ("cosine down to 0.001", f"optim.lr_final_ratio {optim.lr_final_ratio:g}"),
        ("LARS: momentum 0.9, eta 0.001", f"optim.momentum {optim.momentum:g}, optim.trust_coefficient "
         f"{optim.trust_coefficient:g}"),
        ("fp16 autocast", f"train.precision {config.train.precision}"),
        ("short last batch, divided by the full size", "left out: an epoch has whole batches only"),
    ]  # fmt: skip


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
