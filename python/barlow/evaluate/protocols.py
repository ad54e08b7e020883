"""Here: the one table of protocols: their names, where they were published, what runs them.

Not here: any protocol; each has a file, with its hyper-parameters' defaults in config/fields.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from barlow.config import Config
from barlow.evaluate import few_shot, knn, linear, retrieval, svm, sweep
from barlow.evaluate.extra import needs
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.partition import Parts
from barlow.evaluate.tuning import Tuning

DEFAULT = ("knn", "linear")
"""What `barlow eval` does if it is not told."""
EVERY_ROW = ("trained", "untrained", "raw pixels")


@dataclass(frozen=True)
class Protocol:
    """How one number, or a few, come about."""

    title: str
    """In tables."""
    source: str
    """Where it was published: paper and section, or the file of a public repository."""
    run: Callable[[Job, Row, int], Json]
    """(job, row, seed) -> metrics in percent ("top1", "top5", "map", ...) and what else is worth keeping.

    The metrics are not rounded yet: means are taken over them first (`spread.over_seeds`).

    All ranks call it together and get the same. A `row.backbone` is as before afterwards. Under "notes" it
    may say, as a list of lines, where these images made it leave the published protocol."""
    settings: Callable[[Config], Json]
    """Every setting that its numbers depend on, for eval.json."""
    deviations: Callable[[Config], list[str]]
    """Where the settings leave the published ones, in words."""
    metrics: tuple[str, ...] = ("top1", "top5")
    """Those of `run` that have a mean and a deviation over seeds, as patterns of shells ("recall_at_*")."""
    check: Callable[[Parts, Config], object] = lambda parts, config: None
    """Called before anything is computed: `ValueError`, `OSError` for what would fail hours later."""
    random: bool = True
    """Whether a seed changes anything; otherwise it runs once however many are asked for."""
    multi_label: bool = False
    """Whether it also takes images with several classes each (voc.py)."""
    rows: tuple[str, ...] = EVERY_ROW
    """The rows that it is run for."""


_SEMI = "the paper, section 3.2 and appendix B.2; facebookresearch/barlowtwins, evaluate.py"
_TRANSFER = "the paper, table 3 and its appendix (PIRL's settings)"


def _trained(name: str, title: str, source: str) -> Protocol:
    protocol = Tuning(name)
    return Protocol(
        title,
        source,
        protocol.run,
        protocol.settings,
        protocol.deviations,
        check=protocol.check,
        rows=("trained", "untrained"),
    )


PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(
        title="kNN",
        source="Wu et al., CVPR 2018, section 3.4; k of facebookresearch/dino, eval_knn.py",
        run=knn.run,
        settings=knn.settings,
        deviations=knn.deviations,
        random=False,
    ),
    "linear": Protocol(
        title="linear",
        source="the paper, section 3.1 and appendix B.1; facebookresearch/barlowtwins, evaluate.py",
        run=linear.run,
        settings=linear.settings,
        deviations=linear.deviations,
    ),
    "linear-sweep": Protocol(
        title="linear sweep",
        source="rates side by side as in facebookresearch/dinov2, dinov2/eval/linear.py; chosen on held-out "
        "training images as in Kornblith et al., CVPR 2019",
        run=sweep.run,
        settings=sweep.settings,
        deviations=sweep.deviations,
    ),
    "voc07-svm": Protocol(
        title="VOC07 SVM",
        source="the paper, table 3; facebookresearch/vissl, vissl/utils/svm_utils",
        run=svm.run,
        settings=svm.settings,
        deviations=svm.deviations,
        check=lambda parts, config: needs("sklearn", "voc07-svm"),
        metrics=("map_11_point", "map_area"),
        multi_label=True,
    ),
    "few-shot": Protocol(
        title="few-shot",
        source="Chen et al., ICLR 2019; Tian et al., ECCV 2020: WangYueFt/rfs, eval/meta_eval.py",
        run=few_shot.run,
        settings=few_shot.settings,
        deviations=few_shot.deviations,
        check=lambda parts, config: needs("sklearn", "few-shot"),
        metrics=("centroid_*_shot", "logistic_*_shot"),
    ),
    "retrieval": Protocol(
        title="retrieval",
        source="Song et al., CVPR 2016",
        run=retrieval.run,
        settings=retrieval.settings,
        deviations=retrieval.deviations,
        metrics=("recall_at_*", "map"),
        random=False,
    ),
    "semi-1": _trained("semi-1", "1 % of labels", _SEMI),
    "semi-10": _trained("semi-10", "10 % of labels", _SEMI),
    "finetune": _trained("finetune", "fine-tuned", "facebookresearch/barlowtwins, evaluate.py"),
    "places205": _trained("places205", "Places-205", _TRANSFER),
    "inat18": _trained("inat18", "iNaturalist-18", _TRANSFER),
}
"""By the name in eval.json and on the command line."""
