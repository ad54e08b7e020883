"""Here: the protocols of an evaluation in words and numbers, and where they leave the published ones.

Not here: running them; each protocol's own settings, which are in its file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from barlow.config import Config
from barlow.evaluate import knn
from barlow.evaluate.job import Json
from barlow.evaluate.protocols import DEFAULT, PROTOCOLS

_OFFICIAL_SIZE, _OFFICIAL_RESIZE = 224, 256


def protocol(
    config: Config,
    dtype: torch.dtype,
    baseline_factors: tuple[float, ...] | None,
    *,
    labelled: bool,
    names: Sequence[str] = DEFAULT,
    notes: Sequence[str] = (),
) -> Json:
    """Every setting that the numbers of the protocols `names` depend on; `deviations` as text, with `notes`.

    Without labels there are no probes, so neither they nor their rates deviate from anything.
    """
    data = config.data
    told = [line for name in names for line in PROTOCOLS[name].deviations(config)]
    if any(note.startswith(knn.ALL_VOTE) for note in notes):  # then how many may vote has changed nothing
        told = [line for line in told if not line.startswith(knn.FEWER_VOTE)]
    return {
        **{name: {"source": PROTOCOLS[name].source, **PROTOCOLS[name].settings(config)} for name in names},
        "test_view": f"shorter side to {data.eval_resize} px (bilinear), centre crop of {data.image_size} px",
        "normalisation": {"mean": list(data.mean), "std": list(data.std)},
        "precision": str(dtype).removeprefix("torch."),
        "baselines": None
        if baseline_factors is None or not labelled
        else {
            "untrained": "as the seed draws it: what the run began with, unless that was other weights",
            **(_rates(baseline_factors, config) if "linear" in names else {}),
        },
        "deviations": ([*told, *notes] if labelled else []) + _view_deviations(config, dtype),
    }


def _rates(factors: tuple[float, ...], config: Config) -> Json:
    """The linear probe is the one protocol that tries several rates on a baseline."""
    rates = ", ".join(f"{factor * config.evaluate.linear_lr:g}" for factor in factors)
    return {
        "learning_rate_factors": list(factors),
        "note": f"of the rates {rates} the best on the test images counts, in the baselines' favour",
    }


def _view_deviations(config: Config, dtype: torch.dtype) -> list[str]:
    data, told = config.data, []
    if (data.image_size, data.eval_resize) != (_OFFICIAL_SIZE, _OFFICIAL_RESIZE):
        told.append(
            f"views: {data.image_size} px after a resize to {data.eval_resize} px instead of "
            f"{_OFFICIAL_SIZE} px after {_OFFICIAL_RESIZE} px"
        )
    if dtype != torch.float32:
        told.append(f"features are computed in {str(dtype).removeprefix('torch.')}, not float32")
    return told
