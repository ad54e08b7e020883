"""Here: the published settings of the detection experiments, and the learning rate at a step.

Not here: networks, data, the training loop; the same for detectron2 (detectron2/*.yaml).

Sources: the paper, table 4 and its appendix (steps, rates, warm-up); where it says "as in MoCo":
facebookresearch/moco, detection/configs; where that is silent: detectron2's defaults (config/defaults.py and
configs/Base-RCNN-C4.yaml).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """SGD of a detector: everything its numbers depend on, beside data, seed and precision."""

    source: str
    """Where it is published, in words."""
    steps: int
    drops: tuple[int, ...]
    """Steps from which the rate is ten times less, each."""
    lr: float
    """For batches of `batch_size` images."""
    batch_size: int = 16
    """Images of one step over all processes."""
    warmup_steps: int = 1000
    warmup_factor: float = 1e-3
    """The first step's rate over `lr`; from there a straight line to `lr`."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """On all parameters but those of batch norms."""
    sizes: tuple[int, ...]
    """Shorter sides in pixels, one of which is drawn for each training image; test images have the last."""
    max_size: int = 1333
    """The longer side is never above."""

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes must hold at least one size")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.lr * 0.1 ** bisect_right(self.drops, step)
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            rate *= self.warmup_factor * (1 - done) + done
        return rate

    def shortened(self, steps: int, batch_size: int = 0) -> DetectionRecipe:
        """The same in so many steps, drops and warm-up in proportion; another batch scales the rate along.

        0 leaves either as it is.
        """
        steps, batch_size = steps or self.steps, batch_size or self.batch_size
        return replace(
            self,
            steps=steps,
            drops=tuple(round(drop * steps / self.steps) for drop in self.drops),
            warmup_steps=round(self.warmup_steps * steps / self.steps),
            lr=self.lr * batch_size / self.batch_size,
            batch_size=batch_size,
        )


VOC = DetectionRecipe(
    source="the paper, table 4 and its appendix: VOC07+12 trainval, Faster R-CNN C4",
    steps=24_000,
    drops=(18_000, 22_000),
    lr=0.1,
    warmup_factor=0.333,
    sizes=tuple(range(480, 801, 32)),
)
COCO = DetectionRecipe(
    source="the paper, table 4 and its appendix: COCO train2017, Mask R-CNN C4, 1x schedule",
    steps=90_000,
    drops=(60_000, 80_000),
    lr=0.03,
    sizes=tuple(range(640, 801, 32)),
)
