"""Here: how a run begins or goes on as its user wishes: resumed or not, with more epochs, with given weights.

Not here: loading checkpoints (saving.py), the other checks of a run's folder (launch.py). The command line
imports this file, so torch waits until it is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from barlow import durable
from barlow.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from barlow.distributed import World
    from barlow.model import Twins

INITIAL = "init_from"
"""Entry of run.json that says which weights the run began with."""
EXTENDED = "extended"
"""Entry of run.json that lists when the run was given more epochs."""


@dataclass(frozen=True)
class Beginning:
    """What was asked for; the defaults are what a command without wishes means."""

    resume: Literal["auto", "must", "never"] = "auto"
    """Go on if there is a checkpoint, go on or fail, begin anew or fail."""
    extend_to: int = 0
    """Epochs in all that a run with a checkpoint is to have from now on; 0: as many as it has."""
    init_from: Path | None = None
    """Run or file of weights to begin with."""
    allow_changes: tuple[str, ...] = ()
    """What may be another than when the run was started (identity.py); recorded where it is."""

    def applied(self, config: Config) -> Config:
        """The config with the epochs that were asked for."""
        if not self.extend_to:
            return config
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=self.extend_to))

    def check_folder(self, run: Path, newest: int | None, *, restarted: bool = False) -> None:
        """`ValueError` if the wishes cannot be met in a folder whose newest checkpoint is of step `newest`.

        `restarted`: a scheduler repeats the command, so that what is there is this command's own.
        """
        if self.resume == "must" and newest is None:
            raise ValueError(f"{run} has no checkpoint to go on from, as --resume must demands")
        if self.resume == "never" and newest is not None and not restarted:
            raise ValueError(
                f"{run} has a checkpoint of step {newest}, which --resume never neither uses nor removes; "
                "choose another --run"
            )
        if self.extend_to and newest is None:
            raise ValueError(f"{run} has no checkpoint, so there is nothing for --extend-to to extend")

    def freed(self, run: Path, saved: Config, config: Config) -> tuple[str, ...]:
        """The fields that may change by wish in a run with checkpoints; `ValueError` for fewer epochs."""
        if not self.extend_to:
            return ()
        if config.optim.epochs < saved.optim.epochs:
            raise ValueError(
                f"{run} has {saved.optim.epochs} epochs, and --extend-to {self.extend_to} would be fewer; "
                "--train.steps stops earlier"
            )
        return ("optim.epochs",)

    @staticmethod
    def remedy(saved: Config, config: Config) -> str:
        """Words on what to do when the only change is a number of epochs that nobody wished for."""
        before, now = saved.optim.epochs, config.optim.epochs
        return f"--extend-to {now} gives it more, or " if now > before else ""

    def check_weights(self, run: Path, config: Config, newest: int | None, record: Mapping[str, Any]) -> None:
        """`ValueError`, `OSError` if the run cannot begin with the weights, or has begun with others."""
        if self.init_from is None:
            return
        if newest is None:
            _parts_that_fit(_file_of(self.init_from), config)
            return
        begun = record.get(INITIAL) or {}
        same = begun.get("source") == str(self.init_from.absolute())
        if not same and begun.get("sha256") != durable.size_and_digest(_file_of(self.init_from))[1]:
            source = begun.get("source", "weights drawn from its seed")
            raise ValueError(f"{run} began with {source}, not with {self.init_from}; choose another --run")

    def record(
        self, before: Mapping[str, Any], saved: Config | None, config: Config, newest: int | None
    ) -> dict[str, Any]:
        """The entries of run.json that tell of it; `before` is what the file held.

        `saved` is the config that the run had, `newest` the step of its newest checkpoint, None without.
        """
        kept = {name: before[name] for name in (INITIAL, EXTENDED) if name in before}
        if newest is not None and saved is not None and saved.optim.epochs != config.optim.epochs:
            entry = {"step": newest, "from_epochs": saved.optim.epochs, "to_epochs": config.optim.epochs}
            earlier = kept.get(EXTENDED, [])
            kept[EXTENDED] = earlier if earlier[-1:] == [entry] else [*earlier, entry]
        if newest is None and self.init_from is not None:
            file = _file_of(self.init_from)
            num_bytes, sha256 = durable.size_and_digest(file)
            kept[INITIAL] = {
                "source": str(self.init_from.absolute()),
                "file": str(file.absolute()),
                "bytes": num_bytes,
                "sha256": sha256,
                "parts": sorted({name.partition(".")[0] for name in _parts_that_fit(file, config)[0]}),
            }
        return kept


def seam(before: Mapping[str, Any], config: Config, step: int, steps_per_epoch: int) -> str | None:
    """What more epochs do to the schedule of a run that has `step` steps and whose checkpoint says `before`.

    None if the number of epochs is the same. The schedule is that of the new total from the next step on, as
    if it had been so from the beginning: during warm-up nothing changes, afterwards the rate rises.
    """
    from barlow.optim import learning_rate, true_gradient_rates

    epochs = before["optim"]["epochs"]
    if epochs == config.optim.epochs:
        return None
    peak = true_gradient_rates(config.optim).lr_weights
    old, new = (
        learning_rate(step, dataclasses.replace(config.optim, epochs=of), steps_per_epoch)
        for of in (epochs, config.optim.epochs)
    )
    total = config.optim.epochs * steps_per_epoch
    target = ", and so does the target network's momentum" if config.objective.name == "byol" else ""
    return (
        f"extended from {epochs} to {config.optim.epochs} epochs: the learning rate now falls until step "
        f"{total}{target}; in step {step + 1} that of weights is {peak * new:.4g} ({100 * new:.1f} % of its "
        f"peak) where the schedule of {epochs} epochs has {peak * old:.4g} ({100 * old:.1f} %)"
    )


class Initial:
    """The weights that a run without checkpoints begins with, as its run.json names them."""

    def __init__(self, entry: Mapping[str, Any], config: Config) -> None:
        self._file, self._sha256, self._config = Path(entry["file"]), entry["sha256"], config
        self.said = ""
        """What was loaded, and what was not."""

    def load(self, twins: Twins) -> None:
        """Copies them into the twins. `ValueError` if the file has changed since the run was started."""
        if durable.size_and_digest(self._file)[1] != self._sha256:
            raise ValueError(f"{self._file} has changed since the run was to begin with it")
        tensors, note = _parts_that_fit(self._file, self._config)
        twins.load_state_dict(tensors, strict=False)  # every name and shape has been compared
        parts = " and ".join(sorted({name.partition(".")[0] for name in tensors}))
        self.said = f"began with the {parts} of {self._file} (sha256 {self._sha256[:12]}…){note}"


def initial_weights(run: Path, config: Config, world: World) -> Initial | None:
    """What run.json says the run begins with, None if nothing or if it has begun; every rank calls it."""
    from barlow.distributed import broadcast_value
    from barlow.train.checkpoint import CHECKPOINTS, newest_step

    entry = None
    if world.rank == 0 and newest_step(run / CHECKPOINTS) is None and (run / "run.json").exists():
        entry = durable.read_json(run / "run.json").get(INITIAL)
    entry = broadcast_value(entry)
    return Initial(entry, config) if entry else None


def _file_of(source: Path) -> Path:
    from barlow.model.weights import weights_file

    return weights_file(source)


def _parts_that_fit(file: Path, config: Config) -> tuple[dict[str, Tensor], str]:
    """The file's backbone, and its projector if that fits too, by their names in the twins; why it does not.

    `ValueError` that names the tensors unless the backbone is exactly the config's.
    """
    import torch

    from barlow.model import build_model, weights

    with torch.device("meta"):  # names and shapes are all that is wanted
        twins = build_model(config.model, seed=0)
    found = weights.read_parts(file)
    weights.check_fit(twins.backbone, found.backbone, file)
    backbone = {f"backbone.{name}": tensor for name, tensor in found.backbone.items()}
    if not found.projector:
        return backbone, "; it has no projector, which begins anew"
    try:
        weights.check_fit(twins.projector, found.projector, file)
    except ValueError as error:
        return backbone, f"; the projector begins anew: {error}"
    return backbone | {f"projector.{name}": tensor for name, tensor in found.projector.items()}, ""
