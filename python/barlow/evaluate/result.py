"""Here: reading eval.json back: what is in it is what readers may rely on, or an error names the file.

Not here: making it (evaluation.py), showing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from barlow import durable

Json = dict[str, Any]

_ROWS = ("untrained", "raw_pixels")


def read(path: Path) -> Json:
    """An evaluation that `barlow eval` wrote; `OSError`, or a `ValueError` that names the file and the fault.

    With accuracies (`knn` is not None) there are `knn.top1`, `linear.top1` and the counts in `data`; the rows
    of the baselines are None, absent or of the same shape; `label_free` and `protocol` are objects.
    """
    result = durable.read_json(path)
    try:
        _check(result)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return result


def _check(result: Json) -> None:
    classified = result.get("knn") is not None
    for name in (None, *_ROWS):
        row = result if name is None else result.get(name)
        if row is None:
            continue
        where = "" if name is None else f"{name}."
        if not isinstance(row, dict):
            raise ValueError(f"{name} must be an object, not {row!r}")
        for probe in ("knn", "linear") if classified else ():
            scores = _object(row, probe, where)
            _number(scores, "top1", f"{where}{probe}.")
            if scores.get("top5") is not None:
                _number(scores, "top5", f"{where}{probe}.")
        free = _object(row, "label_free", where)
        for key in ("num_features", *free) if free else ():
            _number(free, key, f"{where}label_free.")
    if classified:
        data = _object(result, "data")
        for key in ("train_images", "test_images", "num_classes", "majority_class_percent"):
            _number(data, key, "data.")
    protocol = _object(result, "protocol")
    notes = protocol.get("deviations", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"protocol.deviations must be a list of texts, not {notes!r}")
    if protocol.get("baselines") is not None:
        _object(protocol, "baselines", "protocol.")


def _object(row: Json, key: str, where: str = "") -> Json:
    value = row.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}{key} must be an object, not {value!r}")
    return value


def _number(row: Json, key: str, where: str) -> None:
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{where}{key} must be a number, not {value!r}")
