"""Here: the subcommand eval: its flags, and one process for each rank.

Not here: evaluating (evaluate/), the other subcommands about runs (runs.py).
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from barlow.commands.arguments import MAX_THREADS, Data, Target, check
from barlow.commands.stopping import goes_on
from barlow.config import Config, DataConfig, EvaluateConfig, load
from barlow.train.launch import CONFIG_FILE
from barlow.train.ranks import in_rank, only_the_first_failure_speaks, start_ranks

NO_PART: dict[type, tuple[str, ...]] = {
    DataConfig: ("prefetch", "device_stage", "on_error", "max_replaced"),
    EvaluateConfig: ("online_every_epochs", "online_images"),
}
"""Fields that only a training run reads."""
_PATIENCE_S = 24 * 3600.0
"""One rank may still be busy with its SVMs while the others wait."""
_MAX_SEEDS = 1000


@dataclass(frozen=True)
class Settings:
    """The parts of a config that an evaluation reads."""

    data: DataConfig
    evaluate: EvaluateConfig


def evaluating(default: Config) -> Callable[..., None]:
    """The subcommand with one config's values as the defaults of its flags."""

    def evaluate(
        target: Target,
        data: Data,
        *,
        held_out: Path | None = None,
        train_list: Path | None = None,
        held_out_list: Path | None = None,
        out: Path | None = None,
        protocols: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
        seeds: int = 1,
        baselines: bool = True,
        nproc: int = 0,
        precision: Literal["fp32", "bf16", "fp16", "auto"] | None = None,
        cache: Path | None = None,
        cache_gib: float = 16.0,
        settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings(default.data, default.evaluate),
    ) -> None:
        """Measures a backbone on held-out images by published protocols.

        The accuracies are in percent. docs/evaluation.md explains the protocols. Their settings are flags,
        with the run's own as defaults. Inside torchrun or srun this process is one rank, as in train; all
        ranks share the work.

        Args:
            target: Run folder, or weights: exported, torchvision's or timm's (docs/export.md).
            data: Images with labels to train on; PASCAL VOC, Places-205 or iNaturalist 2018 as they are
                unpacked; without any label, only what needs none is measured.
            held_out: Images to test on; by default those that were packed as held-out, else a fifth of DATA.
            train_list: Which images of DATA train, and as what: a name and a class a line, or COCO's JSON.
            held_out_list: The same of the images to test on, in --held-out or in DATA.
            out: File for the result; by default RUN/eval.json.
            protocols: Of knn, linear, linear-sweep, voc07-svm, few-shot, retrieval, semi-1, semi-10,
                finetune, places205, inat18; by default knn linear.
            seeds: Repeat what is random so often, for mean and standard deviation.
            baselines: Also measure the untrained network and the raw pixels.
            nproc: Processes on this machine; 0 is one for each GPU, or one.
            precision: Number type of the features' computation; by default the run's. auto: as in train.
            cache: Folder for features that another evaluation would compute again; by default RUN/features.
            cache_gib: Most GiB of them, the latest used stay; 0 keeps none.
            settings: Of images and protocols.
        """
        check("--nproc", nproc, 0, MAX_THREADS)
        check("--seeds", seeds, 1, _MAX_SEEDS)
        lists = _lists(train_list, held_out_list)
        config = _changed(default, settings, precision)
        import torch

        nproc = nproc or max(1, torch.cuda.device_count())
        from barlow.distributed import process_group
        from barlow.evaluate import evaluate
        from barlow.evaluate.evaluation import check_request
        from barlow.evaluate.sharing import own_cores

        check_request(protocols, seeds, cache_gib)
        if nproc > 1 and not in_rank():
            with goes_on(alone=False):
                start_ranks(nproc, ["-m", "barlow", "--", *sys.argv[1:]])
            return
        with (
            goes_on(),
            process_group(timeout_s=_PATIENCE_S) as world,
            warnings.catch_warnings(),
            only_the_first_failure_speaks(),
        ):
            if world.size > 1:
                torch.set_num_threads(own_cores())
            if world.rank > 0:
                warnings.simplefilter("ignore")  # the first rank gives the same ones
            evaluate(
                target,
                data,
                held_out=held_out,
                lists=lists,
                out=out,
                baselines=baselines,
                device=str(world.device),
                config=config,
                protocols=protocols or None,
                seeds=seeds,
                cache=cache,
                cache_gib=cache_gib,
            )

    return evaluate


def config_of(target: Path) -> Config:
    """What the weights know of the run that made them; the paper's recipe where they know nothing.

    `OSError`, `ValueError`: what is there can't be read.
    """
    if (target / CONFIG_FILE).is_file():
        return load(target / CONFIG_FILE)
    if not target.exists():
        return Config()  # whoever opens it says so
    from barlow.model.weights import load_backbone

    return load_backbone(target)[2] or Config()


def _lists(train: Path | None, held_out: Path | None) -> tuple[Path, Path] | None:
    if train is None and held_out is None:
        return None
    if train is None or held_out is None:
        raise ValueError("--train-list and --held-out-list are only of use together")
    return train, held_out


def _changed(default: Config, settings: Settings, precision: str | None) -> Config:
    for section in dataclasses.fields(Settings):
        asked, own = getattr(settings, section.name), getattr(default, section.name)
        for field in NO_PART[type(own)]:
            if getattr(asked, field) != getattr(own, field):
                raise ValueError(f"--{section.name}.{field.replace('_', '-')} has no part in barlow eval")
    train = default.train if precision is None else dataclasses.replace(default.train, precision=precision)
    return dataclasses.replace(default, data=settings.data, evaluate=settings.evaluate, train=train)
