"""Here: reading eval.json back: what is in it is what readers may rely on, or an error names the file.

Not here: making it (evaluation.py), showing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from barlow import durable
from barlow.evaluate.protocols import PROTOCOLS
from barlow.evaluate.spread import names

Json = dict[str, Any]

_ROWS = ("untrained", "raw_pixels")


def read(path: Path) -> Json:
    """An evaluation that `barlow eval` wrote; `OSError`, or a `ValueError` that names the file and the fault.

    With accuracies (`is_classified`) there are the counts in `data`, and every protocol is an object whose
    metrics are numbers or None: where `knn` or `linear` were done they have their `top1`. The rows of the
    baselines are None, absent or of the same shape; `label_free` and `protocol` are objects.
    """
    result = durable.read_json(path)
    try:
        _check(result)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return result


def is_classified(result: Json) -> bool:
    """Whether any protocol has numbers."""
    return any(result.get(name) is not None for name in PROTOCOLS)


def _check(result: Json) -> None:
    classified = is_classified(result)
    for key in (None, *_ROWS):
        row = result if key is None else result.get(key)
        if row is None:
            continue
        where = "" if key is None else f"{key}."
        if not isinstance(row, dict):
            raise ValueError(f"{key} must be an object, not {row!r}")
        for name in PROTOCOLS:
            # What was done for the backbone was done for its baselines, unless the protocol leaves them out.
            if row.get(name) is not None:
                _check_protocol(row, name, where)
            elif key is None and name in row and classified:
                raise ValueError(f"{name} must be an object, not {row[name]!r}")
        free = _object(row, "label_free", where)
        for number in ("num_features", *free) if free else ():
            _number(free, number, f"{where}label_free.")
    if classified:
        data = _object(result, "data")
        counts = ("train_images", "test_images", "num_classes", "majority_class_percent")
        for key in counts if "majority_class_percent" in data else counts[:3]:
            _number(data, key, "data.")
    protocol = _object(result, "protocol")
    notes = protocol.get("deviations", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"protocol.deviations must be a list of texts, not {notes!r}")
    if protocol.get("baselines") is not None:
        _object(protocol, "baselines", "protocol.")


def _check_protocol(row: Json, name: str, where: str) -> None:
    scores, metrics = _object(row, name, where), PROTOCOLS[name].metrics
    if "top1" in metrics:
        _number(scores, "top1", f"{where}{name}.")
    for metric in names(scores, metrics):
        if scores[metric] is not None:
            _number(scores, metric, f"{where}{name}.")
    spread = _object(scores, "std", f"{where}{name}.")
    for metric in spread:
        if spread[metric] is not None:
            _number(spread, metric, f"{where}{name}.std.")
    if not isinstance(scores.get("seeds", []), list):
        raise ValueError(f"{where}{name}.seeds must be a list, not {scores['seeds']!r}")


def _object(row: Json, key: str, where: str = "") -> Json:
    value = row.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}{key} must be an object, not {value!r}")
    return value


def _number(row: Json, key: str, where: str) -> None:
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{where}{key} must be a number, not {value!r}")
