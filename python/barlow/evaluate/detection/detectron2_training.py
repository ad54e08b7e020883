"""Here: training by detectron2 with the configs beside, and the one part of them that detectron2 lacks.

    python -m barlow.evaluate.detection.detectron2_training --config NAME --num-gpus 8 MODEL.WEIGHTS FILE ...

Not here: the configs (detectron2/*.yaml), weights with detectron2's names (`barlow export`), torchvision's
detectors (c4.py, training.py). detectron2 itself is installed apart (docs/detection.md).

Source of the extra norm: He et al., CVPR 2020 (MoCo), section 4.2 and appendix; facebookresearch/moco,
detection/train_net.py.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "detectron2"
"""The folder of the configs; their names without .yaml are what --config takes."""


def config_file(name: str) -> Path:
    """The path of a config by its name; `ValueError` with the names that there are."""
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "c4-extra-norm")
    if name not in names:
        raise ValueError(f"there is no config {name!r}, only {', '.join(names)}")
    return CONFIGS / f"{name}.yaml"


def register_heads() -> None:
    """Makes `Res5ROIHeadsExtraNorm` known to detectron2: Res5ROIHeads with a batch norm behind res5."""
    from detectron2.layers import get_norm
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

    if "Res5ROIHeadsExtraNorm" in ROI_HEADS_REGISTRY:  # another script's of the same name
        return

    class Res5ROIHeadsExtraNorm(Res5ROIHeads):
        @classmethod
        def _build_res5_block(cls, cfg: Any) -> tuple[Any, int]:
            blocks, num_features = super()._build_res5_block(cfg)
            blocks.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, num_features))
            return blocks, num_features

    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)


def settings(file: Path, overrides: Sequence[str]) -> Any:
    """detectron2's config of a file, with `overrides` as NAME VALUE NAME VALUE."""
    from detectron2.config import get_cfg

    register_heads()
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg


def train(arguments: argparse.Namespace) -> Any:
    """Trains and evaluates on every process that `main` starts."""
    from detectron2.engine import DefaultTrainer, default_setup
    from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator

    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str, output_folder: str | None = None) -> Any:
            if dataset_name.startswith("voc_"):
                return PascalVOCDetectionEvaluator(dataset_name)
            return COCOEvaluator(dataset_name, output_dir=output_folder or cfg.OUTPUT_DIR)

    cfg = settings(config_file(arguments.config), arguments.opts)
    default_setup(cfg, arguments)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=arguments.resume)
    if arguments.eval_only:
        return Trainer.test(cfg, trainer.model)
    return trainer.train()


def main() -> None:
    """detectron2's own arguments, and --config."""
    try:
        from detectron2.engine import default_argument_parser, launch
    except ModuleNotFoundError:
        raise SystemExit("detectron2 is not installed; docs/detection.md says how to install it") from None
    parser = default_argument_parser()
    parser.add_argument("--config", required=True, help="name of a config of ours")
    given = parser.parse_args()
    launch(
        train,
        given.num_gpus,
        num_machines=given.num_machines,
        machine_rank=given.machine_rank,
        dist_url=given.dist_url,
        args=(given,),
    )


if __name__ == "__main__":
    main()
