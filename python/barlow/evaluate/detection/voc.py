"""Here: the images and boxes of a VOCdevkit folder, as detectors train on them and as VOC counts them.

Not here: training, average precision, resizing (the detector does it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from barlow.evaluate.detection.average_precision import Truth
from barlow.evaluate.detection.c4 import Target

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Label 1 is the first one; 0 is the background."""
Set = tuple[int, str]
"""Year and name of an image set, as in VOC2007/ImageSets/Main/trainval.txt."""
TRAIN: tuple[Set, ...] = ((2007, "trainval"), (2012, "trainval"))
TEST: tuple[Set, ...] = ((2007, "test"),)
_MAX_ANNOTATION_BYTES = 1 << 20
"""VOC's largest annotation has 30 kB; an XML parser's memory grows with what it is given."""


def check_devkit(root: Path, sets: Sequence[Set]) -> None:
    """`ValueError` that says what `root` lacks and what is expected, before any annotation is read."""
    lists = [Path(f"VOC{year}", "ImageSets", "Main", f"{name}.txt") for year, name in sets]
    folders = [Path(f"VOC{year}", part) for year, _ in sets for part in ("Annotations", "JPEGImages")]
    missing = [str(path) for path in lists if not (root / path).is_file()]
    missing += [f"{path}/" for path in dict.fromkeys(folders) if not (root / path).is_dir()]
    absent = [year for year in sorted({path.parts[0] for path in lists}) if not (root / year).is_dir()]
    # Of a folder that is not there nothing else needs saying.
    missing = [f"{year}/" for year in absent] + [path for path in missing if path.split("/")[0] not in absent]
    if not missing:
        return
    meant = f" Is {root.parent} meant?" if (root / "ImageSets").is_dir() else ""
    raise ValueError(
        f"{root} is not VOC's folder VOCdevkit, or not all of it: it lacks {', '.join(missing)}.{meant} "
        "docs/detection.md says where it comes from"
    )


@dataclass(frozen=True)
class _Entry:
    image: Path
    truth: Truth


class VocImages:
    """The images of some sets with their objects; the annotations are read once, at the beginning.

    `root` is the folder VOCdevkit, which holds VOC2007 and so on. `OSError`, or a `ValueError` that names
    file and fault: a set that is not there, an annotation that can't be read, a class that `classes` has not.
    """

    def __init__(self, root: Path, sets: Iterable[Set], classes: Sequence[str] = CLASSES) -> None:
        label_of = {name: i for i, name in enumerate(classes, 1)}
        self._entries: list[_Entry] = []
        for year, name in sets:
            folder = root / f"VOC{year}"
            for line in (folder / "ImageSets" / "Main" / f"{name}.txt").read_text().split("\n"):
                if stem := line.strip():
                    truth = _annotation(folder / "Annotations" / f"{stem}.xml", label_of)
                    image = folder / "JPEGImages" / f"{stem}.jpg"
                    image.stat()  # now, not in the midst of training
                    self._entries.append(_Entry(image, truth))
        if not self._entries:
            raise ValueError(f"the image sets of {root} name no image")

    def __len__(self) -> int:
        return len(self._entries)

    def with_objects(self) -> list[int]:
        """Positions of the images that have any object, which are those that train (detectron2 does so)."""
        return [i for i, entry in enumerate(self._entries) if len(entry.truth.labels)]

    def digest(self) -> str:
        """SHA-256 of the images' names and objects, in hexadecimal digits; not of pixels."""
        hasher = hashlib.sha256()
        for entry in self._entries:
            truth = entry.truth
            rows = [truth.boxes.tolist(), truth.labels.tolist(), truth.difficult.tolist()]
            hasher.update(json.dumps([entry.image.name, *rows]).encode())
        return hasher.hexdigest()

    def truths(self) -> list[Truth]:
        """What is to be found in each image, VOC's numbers as they are: the first pixel is 1."""
        return [entry.truth for entry in self._entries]

    def __getitem__(self, i: int) -> tuple[Tensor, Target]:
        """Image float32 [3, H, W] in [0, 1] and its objects, difficult ones among them (as detectron2).

        Boxes are x0, y0, x1, y1 with the edges of pixels counted from 0: VOC's first pixel less one.
        `ValueError` names an image that can't be read.
        """
        entry = self._entries[i]
        try:
            with Image.open(entry.image) as opened:
                pixels = np.array(opened.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{entry.image} can't be read: {error}") from None
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        boxes = torch.from_numpy(entry.truth.boxes - (1, 1, 0, 0)).float()
        return image, {"boxes": boxes, "labels": torch.from_numpy(entry.truth.labels)}


def _annotation(path: Path, label_of: dict[str, int]) -> Truth:
    if path.stat().st_size > _MAX_ANNOTATION_BYTES:
        raise ValueError(f"{path} is no annotation: it has more than {_MAX_ANNOTATION_BYTES} bytes")
    text = path.read_bytes()
    if b"<!ENTITY" in text or b"<!DOCTYPE" in text:  # entities that grow without end
        raise ValueError(f"{path} declares entities, which no VOC annotation does")
    try:
        objects = ElementTree.fromstring(text).findall("object")
        rows = [
            [_text(o, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")] for o in objects
        ]
        boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
        difficult = np.array([int(o.findtext("difficult") or 0) != 0 for o in objects], dtype=bool)
        labels = np.array([label_of[_text(o, "name")] for o in objects], dtype=np.int64)
    except KeyError as error:
        raise ValueError(f"{path} has an object of the unknown class {error}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no VOC annotation: {error}") from None
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{path} has a box that ends before it begins")
    return Truth(boxes, labels, difficult)


def _text(node: ElementTree.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()
