"""torchvision's detectors on our backbone: their parts, that they learn, a VOCdevkit folder, ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads

from barlow.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from barlow.distributed import World
from barlow.evaluate import features
from barlow.evaluate.detection import detectron2_training
from barlow.evaluate.detection import recipe as recipes
from barlow.evaluate.detection.average_precision import voc_scores
from barlow.evaluate.detection.c4 import C4Heads, c4_detector
from barlow.evaluate.detection.training import find_objects, train_detector
from barlow.evaluate.detection.voc import VocImages
from barlow.model import Backbone, ViewBatchNorm, build_backbone
from drawn_boxes import NAMES, Rectangles
from processes import run

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
QUICK = dataclasses.replace(
    recipes.VOC, steps=12, drops=(8, 10), warmup_steps=3, lr=0.02, batch_size=2, sizes=(64,)
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_backbone(width: int = 8) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelConfig(backbone="resnet10", stem="imagenet", width=width))


def tiny_detector(**options: Any) -> Any:
    backbone = tiny_backbone()
    torch.manual_seed(1)
    return c4_detector(backbone, 3, mean=HALF, std=HALF, **{"sizes": (64,), **options})


# What it is made of


def test_the_weights_are_the_backbones_and_the_head_is_its_last_stage() -> None:
    backbone = build_backbone(ModelConfig(backbone="resnet50", width=8))
    before = features.digest(backbone)
    detector: Any = c4_detector(backbone, 21, mean=HALF, std=HALF)
    trunk, head = detector.backbone, detector.roi_heads.box_head
    own = backbone.state_dict()
    for module in (trunk, head):
        for name, tensor in module.state_dict().items():
            if not name.startswith("norm."):
                assert torch.equal(own.pop(name), tensor), name
    assert not own, "every tensor of the backbone is in one of the two"
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96)
        assert detector.eval().backbone(x).shape == (1, 128, 4, 6)
        assert head(torch.randn(2, 128, 14, 14)).shape == (2, 256, 7, 7)
        # Together they are the backbone, but for the region head's own norm.
        whole = backbone.eval()(x)
        torch.testing.assert_close(head.layer4(detector.backbone(x)).mean((2, 3)), whole)
    assert detector.rpn.anchor_generator.num_anchors_per_location() == [15]
    assert isinstance(head.norm, ViewBatchNorm)
    assert features.digest(backbone) == before


def test_the_heads_without_masks_are_torchvisions() -> None:
    """The one thing that ours do otherwise is for masks: box losses and detections are those of RoIHeads."""

    detector = tiny_detector()
    ours = detector.roi_heads
    theirs = RoIHeads(
        lambda maps, boxes, _: torchvision.ops.roi_align(maps["0"], boxes, 14, 1 / 16, 0, True),
        nn.Sequential(ours.box_head, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ours.box_predictor, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 100,
    )  # fmt: skip
    maps = {"0": torch.randn(2, detector.backbone.out_channels, 6, 6)}
    proposals = [torch.tensor([[0.0, 0, 40, 40], [30, 20, 90, 90], [5, 50, 60, 80]])] * 2
    targets = [{"boxes": torch.tensor([[2.0, 2, 42, 41]]), "labels": torch.tensor([2])}] * 2
    for training in (True, False):
        results = []
        for heads in (ours, theirs):
            heads.train(training)
            torch.manual_seed(3)
            results.append(heads(maps, proposals, [(96, 96)] * 2, targets if training else None))
        for name in results[1][1]:
            torch.testing.assert_close(results[0][1][name], results[1][1][name])
        for mine, other in zip(results[0][0], results[1][0], strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)
            assert len(mine["boxes"])


def test_boxes_and_masks_share_one_pass_of_the_region_head() -> None:
    detector = tiny_detector(masks=True).train()
    norm = detector.roi_heads.box_head.norm
    images, targets = zip(*(Rectangles(2)[i] for i in range(2)), strict=True)
    losses = detector(list(images), list(targets))
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"
    }  # fmt: skip
    assert int(norm.num_batches_tracked) == 1
    assert isinstance(detector.roi_heads, C4Heads)


def test_frozen_stages_stay_as_they_are() -> None:
    before = tiny_backbone().state_dict()
    detector = tiny_detector(freeze_at=2)
    recipe = dataclasses.replace(QUICK, steps=1, warmup_steps=0)
    train_detector(detector, Rectangles(4), range(4), recipe, seed=0, device=CPU)
    after = detector.backbone.state_dict()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert same >= {name for name in after if name.startswith(("conv1", "bn1", "layer1"))}
    assert not same & {"layer2.0.bn1.running_mean", "layer2.0.conv1.weight", "layer3.0.downsample.0.weight"}
    with pytest.raises(ValueError, match=r"freeze_at must lie in \[0, 4\], not 5"):
        tiny_detector(freeze_at=5)


def test_a_backbone_without_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a ResNet with the stem for large images"):
        c4_detector(
            build_backbone(ModelConfig(backbone="resnet10", stem="cifar", width=8)), 3, mean=HALF, std=HALF
        )


# The schedule


def test_the_schedules_are_the_papers() -> None:
    assert recipes.VOC.rate(0) == pytest.approx(0.1 * 0.333)
    assert recipes.VOC.rate(500) == pytest.approx(0.1 * (0.333 + 1) / 2)
    rates = [recipes.VOC.rate(step) for step in (1000, 17_999, 18_000, 21_999, 22_000, 23_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (recipes.VOC.steps, recipes.VOC.batch_size, recipes.VOC.sizes[0], recipes.VOC.sizes[-1]) == (
        24_000,
        16,
        480,
        800,
    )
    rates = [recipes.COCO.rate(step) for step in (0, 1000, 59_999, 60_000, 79_999, 80_000)]
    assert rates == pytest.approx([3e-5, 0.03, 0.03, 0.003, 0.003, 0.0003])
    assert (recipes.COCO.steps, recipes.COCO.batch_size) == (90_000, 16)
    short = recipes.VOC.shortened(240, 4)
    assert (short.steps, short.drops, short.warmup_steps, short.batch_size) == (240, (180, 220), 10, 4)
    assert short.lr == pytest.approx(0.025)
    assert recipes.VOC.shortened(0) == recipes.VOC


def test_detectron2s_configs_say_the_same() -> None:
    for name, recipe, num_classes in (
        ("voc07+12-faster-rcnn-c4", recipes.VOC, 20),
        ("coco-mask-rcnn-c4-1x", recipes.COCO, 80),
    ):
        file = detectron2_training.config_file(name)
        own = yaml.safe_load(file.read_text())
        base = yaml.safe_load((file.parent / own["_BASE_"]).read_text())
        solver = {"WARMUP_FACTOR": 1e-3, "WARMUP_ITERS": 1000, **base["SOLVER"], **own["SOLVER"]}
        assert solver == {
            "IMS_PER_BATCH": recipe.batch_size,
            "BASE_LR": recipe.lr,
            "STEPS": list(recipe.drops),
            "MAX_ITER": recipe.steps,
            "WARMUP_FACTOR": recipe.warmup_factor,
            "WARMUP_ITERS": recipe.warmup_steps,
        }
        assert own["INPUT"]["MIN_SIZE_TRAIN"] == list(recipe.sizes)
        assert base["INPUT"] == {"FORMAT": "RGB", "MIN_SIZE_TEST": recipe.sizes[-1]}
        assert own["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == num_classes
        assert own["MODEL"]["MASK_ON"] == (num_classes == 80)
        assert base["MODEL"]["RESNETS"] == {"DEPTH": 50, "NORM": "SyncBN", "STRIDE_IN_1X1": False}
        assert base["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
        assert base["MODEL"]["PIXEL_MEAN"] == pytest.approx([255 * m for m in IMAGENET_MEAN])
        assert base["MODEL"]["PIXEL_STD"] == pytest.approx([255 * s for s in IMAGENET_STD])
    with pytest.raises(ValueError, match="there is no config 'c5', only coco-mask-rcnn-c4-1x, voc"):
        detectron2_training.config_file("c5")


# Learning


def test_a_detector_with_masks_learns_drawn_rectangles() -> None:
    detector = tiny_detector(masks=True)
    state = torch.random.get_rng_state()
    losses = train_detector(detector, Rectangles(16), range(16), QUICK, seed=0, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(losses) == QUICK.steps
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    shorter = dataclasses.replace(QUICK, steps=3)
    again = train_detector(tiny_detector(masks=True), Rectangles(16), range(16), shorter, seed=0, device=CPU)
    assert again == losses[:3]
    image, _ = Rectangles(16)[0]
    (found,) = detector.eval()([image])
    assert found["masks"].shape == (len(found["boxes"]), 1, 64, 64)


def test_a_flip_is_the_mirrored_image() -> None:
    from barlow.evaluate.detection.training import _flipped

    image, target = Rectangles(1)[0]
    torch.manual_seed(0)
    flipped, mirrored = next(
        pair for pair in (_flipped(image, target) for _ in range(20)) if pair[0] is not image
    )
    assert torch.equal(flipped, image.flip(-1))
    for (x0, y0, x1, y1), mask in zip(mirrored["boxes"].int().tolist(), mirrored["masks"], strict=True):
        filled = torch.zeros_like(mask)
        filled[y0:y1, x0:x1] = 1
        assert torch.equal(filled, mask)


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="1 images with objects are too few for batches of 2"):
        train_detector(tiny_detector(), Rectangles(1), range(1), QUICK, seed=0, device=CPU)
    recipe = dataclasses.replace(QUICK, lr=1e12, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"the loss of step \d+ is (nan|inf): the detector diverged"):
        train_detector(tiny_detector(), Rectangles(4), range(4), recipe, seed=0, device=CPU)


# VOC


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("VOCdevkit")
    Rectangles(6, seed=1).write_voc(root, 2007, "trainval")
    Rectangles(4, seed=2).write_voc(root, 2012, "trainval")
    Rectangles(5, seed=3).write_voc(root, 2007, "test")
    return root


def test_a_devkit_is_read_as_torchvision_reads_it(devkit: Path) -> None:
    images = VocImages(devkit, [(2007, "trainval"), (2012, "trainval")], NAMES)
    assert len(images) == 10
    assert images.with_objects() == list(range(10))
    drawn = [Rectangles(6, seed=1), Rectangles(4, seed=2)]
    # torchvision wants the folder above, called VOCdevkit.
    (devkit.parent / "above").mkdir(exist_ok=True)
    if not (devkit.parent / "above" / "VOCdevkit").exists():
        (devkit.parent / "above" / "VOCdevkit").symlink_to(devkit)
    for i, truth in enumerate(images.truths()):
        source, at = (drawn[0], i) if i < 6 else (drawn[1], i - 6)
        image, target = images[i]
        year = "2007" if i < 6 else "2012"
        picture, described = torchvision.datasets.VOCDetection(devkit.parent / "above", year, "trainval")[at]
        theirs = [
            [int(o["bndbox"][corner]) for corner in ("xmin", "ymin", "xmax", "ymax")]
            for o in described["annotation"]["object"]
        ]
        assert truth.boxes.tolist() == theirs
        assert target["boxes"].tolist() == source.boxes[at]
        assert target["labels"].tolist() == source.labels[at] == truth.labels.tolist()
        assert torch.equal((image * 255).round().byte(), torch.from_numpy(np.array(picture)).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "is no VOC annotation"),
        ("<annotation><object><name>red</name></object></annotation>", "no bndbox/xmin"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotation/>", "declares entities"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>2</ymax></bndbox></object></annotation>",
            "unknown class 'cat'",
        ),
        (
            "<annotation><object><name>red</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>2</ymax></bndbox></object></annotation>",
            "ends before it begins",
        ),
    ],
)
def test_an_annotation_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    Rectangles(1).write_voc(tmp_path, 2007, "test")
    (tmp_path / "VOC2007" / "Annotations" / "test_000000.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"test_000000\.xml.*{message}"):
        VocImages(tmp_path, [(2007, "test")], NAMES)
    with pytest.raises(FileNotFoundError, match=r"trainval\.txt"):
        VocImages(tmp_path, [(2007, "trainval")], NAMES)


class Perfect(nn.Module):
    """A detector that looks the answer up: what is found then is what is there, through all conventions."""

    def __init__(self, images: VocImages) -> None:
        super().__init__()
        self._answers = [images[i] for i in range(len(images))]

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (target,) = (t for image, t in self._answers if torch.equal(image, images[0]))
        return [{**target, "scores": torch.ones(len(target["labels"]))}]


def test_perfect_detections_have_an_average_precision_of_100(devkit: Path) -> None:
    images = VocImages(devkit, [(2007, "test")], NAMES)
    found = find_objects(Perfect(images), images, device=CPU)  # pyright: ignore[reportArgumentType]
    assert voc_scores(images.truths(), found, 2)["ap"] == 100


def on_a_rank(world: World) -> tuple[list[float], dict[str, torch.Tensor], list]:
    detector = tiny_detector()
    recipe = dataclasses.replace(QUICK, steps=2, warmup_steps=0)
    losses = train_detector(detector, Rectangles(8), range(8), recipe, seed=0, device=CPU)
    found = find_objects(detector, Rectangles(3), device=CPU)
    return losses, detector.state_dict(), [torch.from_numpy(image.boxes) for image in found]


def test_two_ranks_train_one_detector() -> None:
    first, second = run(on_a_rank, 2, timeout_s=240)
    assert first[0] == second[0]
    assert all(torch.equal(tensor, second[1][name]) for name, tensor in first[1].items())
    assert len(first[2]) == 3
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))
