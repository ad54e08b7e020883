"""Here: the paper's experiments as rows at a scale: which change of the recipe, which number of the paper.

Not here: the changes themselves (barlow.ablations), sizes (scales.py), what the paper concludes
(findings.py), running anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from barlow.ablations import ABLATIONS, METHODS, Change, rates_of_batch
from barlow.reproduce.scales import Scale

BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, to be run with several seeds."""

    name: str
    """In commands and files."""
    label: str
    """In tables."""
    changes: Mapping[str, Any]
    """Of the scale's recipe, as in `barlow.ablations.Change`."""
    paper: float | None = None
    """Linear top-1 on ImageNet that the paper prints, in percent; None: only in its plot, or nowhere."""
    x: float | None = None
    """Where it stands on the axis of the paper's plot, if there is one."""
    unknown: str = ""
    """What is said in place of the paper's number, if not what its experiment says."""
    series: str = ""
    """Rows of one name are one curve of the plot."""

    def change(self) -> Change:
        """As what `applied` of barlow.ablations takes."""
        return Change(source=self.name, changes=self.changes)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of the paper."""

    name: str
    title: str
    unknown: str
    """What is said where the paper has no number."""
    rows: Callable[[Scale], list[Row]]
    """At a scale; the first one is what others are compared with."""
    axis: str = ""
    """What `Row.x` is; empty: rows are names, not points of an axis."""
    notes: Callable[[Scale], tuple[str, ...]] = lambda scale: ()
    """How its rows at this scale differ from the paper's, beside the scale's own notes."""


def _number(result: str) -> float | None:
    return float(result) if result.replace(".", "", 1).isdigit() else None


def _ablation(name: str, label: str, **settings: Any) -> Row:
    known = ABLATIONS[name]
    return Row(
        name=name,
        label=label,
        **{"changes": known.changes, "paper": _number(known.result), **settings},
    )


def _table_5(scale: Scale) -> list[Row]:
    return [
        _ablation(BASELINE, "baseline"),
        _ablation("only-invariance", "only invariance (diagonal)"),
        _ablation("only-redundancy-reduction", "only redundancy reduction (off the diagonal)"),
        _ablation("feature-normalization", "normalization along the features"),
        _ablation("no-projector-norm", "no batch norm in the projector"),
        _ablation("cross-covariance", "no batch norm in the projector, no normalization"),
        _ablation("cross-entropy", "cross-entropy with temperature"),
    ]


def _table_6(scale: Scale) -> list[Row]:
    predictor = {"objective.predictor": (scale.width,)}
    both = {"objective.stop_gradient": True, **predictor}
    return [
        _ablation(BASELINE, "symmetric"),
        _ablation("stop-gradient", "stop-gradient"),
        _ablation("predictor", "predictor", changes=predictor),
        _ablation("stop-gradient-predictor", "stop-gradient and predictor", changes=both),
    ]


def _figure_2(scale: Scale) -> list[Row]:
    base = scale.make().optim

    def rate(batch: int) -> float:
        like = batch * 2048 // scale.batch_of_2048
        return rates_of_batch(min(max(like, 64), 4096))["optim.lr_weights"]

    rows = []
    for batch in sorted(scale.batches, key=lambda size: size != base.batch_size):
        ratio = rate(batch) / rate(base.batch_size)
        changes = {
            "optim.batch_size": batch,
            "optim.lr_weights": round(base.lr_weights * ratio, 6),
            "optim.lr_biases": round(base.lr_biases * ratio, 6),
        }
        name = f"batch-{batch}"
        # A number of the paper belongs to the size, so it stands only beside the paper's own batch.
        paper = _number(ABLATIONS[name].result) if scale.make().optim.batch_size == 2048 else None
        rows.append(Row(name=name, label=f"batch {batch}", changes=changes, paper=paper, x=batch))
    return rows


def _figure_3(scale: Scale) -> list[Row]:
    rows = [
        _ablation(BASELINE, "all augmentations", x=0),
        _ablation("no-grayscale", "without grayscale", x=1),
        _ablation("no-color-jitter", "also without colour jitter", x=2),
        _ablation("crop-and-blur", "crops and blur only", x=3),
        _ablation("crop-only", "crops only", x=4),
    ]
    if scale.blurs:
        return rows
    # Views without blur have none to leave out, and crops with blur are crops alone.
    return [_without_blur(row) for row in rows if row.name != "crop-and-blur"]


def _without_blur(row: Row) -> Row:
    left = tuple(op for op in row.changes.get("data.without", ()) if op != "blur")
    return replace(row, changes={"data.without": left} if left else {})


def _figure_4(scale: Scale) -> list[Row]:
    width, base = scale.width, scale.make().model.projector
    widths = [
        Row(
            name=f"width-{size}",
            label=f"width {size}",
            changes={"model.projector": (size,) * len(base)},
            x=size,
            series="width",
        )
        for size in sorted(scale.widths, key=lambda size: size != width)
    ]
    depths = [
        Row(
            name=f"depth-{depth}",
            label=f"{depth} layer{'s' if depth > 1 else ''} of {width}",
            changes={"model.projector": (width,) * depth},
            x=depth,
            unknown="no number",
            series="depth",
        )
        for depth in (1, 2, 3, 4)
    ]
    return [*widths, *depths]


def _figure_5(scale: Scale) -> list[Row]:
    return [
        _ablation(BASELINE, "0.0051", x=0.0051),
        *(
            _ablation(f"lambda-{lambd}", str(lambd), x=lambd)
            for lambd in (0.002, 0.005, 0.0075, 0.01, 0.015, 0.02)
        ),
    ]


_METHODS = (
    # Linear top-1 of the paper's table 1 and, of W-MSE, its section 5.
    ("simclr", "SimCLR", 69.3),
    ("byol", "BYOL", 74.3),
    ("simsiam", "SimSiam", 71.3),
    ("vicreg", "VICReg", None),
    ("w-mse", "W-MSE", 66.3),
)


def _methods(scale: Scale) -> list[Row]:
    width, batch = scale.width, scale.make().optim.batch_size
    small = min(1.0, width / 8192)
    own = {  # the sizes of their heads, no wider than the scale's own projector
        "simclr": {"model.projector": (min(2048, width), min(128, width))},
        "byol": {
            "model.projector": (min(4096, width), min(256, width)),
            "objective.predictor": (min(4096, width),),
        },
        "simsiam": {"model.projector": (min(2048, width),) * 3},
        "w-mse": {"model.projector": (min(1024, width), min(128, width, batch // 2))},
    }
    rows = [Row(name=BASELINE, label="Barlow Twins", changes={}, paper=73.2)]
    for name, label, paper in _METHODS:
        changes = {**METHODS[name].changes, **(own.get(name, {}) if small < 1 else {})}
        rows.append(Row(name=name, label=label, changes=changes, paper=paper))
    return rows


_ONLY_IN_PLOT = "only in the plot"

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(name="table-5", title="Loss ablations (table 5)", unknown="-", rows=_table_5),
        Experiment(
            name="table-6",
            title="Asymmetric twins (table 6)",
            unknown="-",
            rows=_table_6,
            notes=lambda scale: (
                ()
                if scale.width == 8192
                else (f"the predictor's hidden layer has {scale.width} units, not 8192",)
            ),
        ),
        Experiment(
            name="figure-2",
            title="Batch size (figure 2)",
            unknown="another batch",
            rows=_figure_2,
            axis="images in a batch",
            notes=lambda scale: (
                ()
                if scale.batch_of_2048 == 2048
                else (
                    "rates are the recipe's times the authors' ratios, batch "
                    f"{scale.batch_of_2048} in the place of their 2048",
                )
            ),
        ),
        Experiment(
            name="figure-3",
            title="Removing augmentations (figure 3)",
            unknown=_ONLY_IN_PLOT,
            rows=_figure_3,
            notes=lambda scale: (
                ()
                if scale.blurs
                else ("the views have no blur, so `crops and blur only` would be `crops only`",)
            ),
        ),
        Experiment(
            name="figure-4",
            title="Width and depth of the projector (figure 4, section 4)",
            unknown=_ONLY_IN_PLOT,
            rows=_figure_4,
            axis="units of each layer",
            notes=lambda scale: (
                () if scale.width == 8192 else (f"depth is varied at width {scale.width}, not 8192",)
            ),
        ),
        Experiment(
            name="figure-5",
            title="The weight lambda (figure 5)",
            unknown=_ONLY_IN_PLOT,
            rows=_figure_5,
            axis="lambda",
        ),
        Experiment(
            name="methods",
            title="Other methods (table 1, section 5)",
            unknown="not in the paper",
            rows=_methods,
            notes=lambda scale: (
                "the paper's numbers are of the methods' own recipes, mostly 800 to 1000 epochs; here all "
                "have one backbone, views, optimizer and length",
                *(() if scale.width == 8192 else (f"heads are no wider than {scale.width}",)),
            ),
        ),
    )
}
"""By the name on the command line."""
