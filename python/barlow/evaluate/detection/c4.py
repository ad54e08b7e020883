"""Here: torchvision's Faster and Mask R-CNN on a backbone's first four stages, with the last as region head.

Not here: recipes, training, data.

Sources: detectron2, configs/Base-RCNN-C4.yaml and Res5ROIHeads (what "C4" means: one feature map of stride
16, the fifth stage as the head that boxes and masks share); facebookresearch/moco, detection/train_net.py
(the batch norm behind it, "ExtraNorm", which the paper took over).

What remains of torchvision where detectron2 differs: smooth L1 begins at 1/9 instead of 0, and masks that are
compared with the predictions are cut out without half a pixel's shift.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_align

from barlow.model import Backbone, ResNet, ViewBatchNorm2d
from barlow.model.precision import autocast

STRIDE = 16
"""Pixels of the image for one of the feature map."""
ANCHOR_SIZES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
REGION = 14
"""Side of a region that is cut out of the feature map; the last stage halves it."""
_MASK_CHANNELS = 256

Target = dict[str, Tensor]
"""boxes float32 [N, 4] as x0, y0, x1, y1 in pixels; labels int64 [N] from 1; masks uint8 [N, H, W]."""


class Trunk(nn.Module):
    """Normalised images [N, 3, H, W] to the fourth stage's map float32 [N, out_channels, H / 16, W / 16]."""

    def __init__(self, backbone: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = (
            backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool,
        )  # fmt: skip
        self.layer1, self.layer2, self.layer3 = backbone.layer1, backbone.layer2, backbone.layer3
        self.out_channels = backbone.num_features // 2
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """The map; computed in the given dtype."""
        with autocast(images.device, self._dtype):
            x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
            x = self.layer3(self.layer2(self.layer1(x)))
        return x.float()

    def stages(self) -> list[list[nn.Module]]:
        """Stem and stages in the order of detectron2's FREEZE_AT."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3]]


class RegionHead(nn.Module):
    """Regions [R, C, 14, 14] to float32 [R, 2 C, 7, 7]: the last stage and a batch norm behind it."""

    def __init__(self, backbone: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer4, self.norm = backbone.layer4, ViewBatchNorm2d(backbone.num_features)
        self._dtype = dtype

    def forward(self, regions: Tensor) -> Tensor:
        """The regions' features."""
        with autocast(regions.device, self._dtype):
            x = self.norm(self.layer4(regions))
        return x.float()


class C4Heads(RoIHeads):
    """torchvision's heads, but for one thing: the region head runs once for boxes and masks.

    With torchvision's own two calls its batch norms would average over other regions for the masks than for
    the boxes, and their running statistics over both.
    """

    def __init__(self, head: RegionHead, num_features: int, num_classes: int, *, masks: bool) -> None:
        super().__init__(
            box_roi_pool=None,
            box_head=head,
            box_predictor=FastRCNNPredictor(num_features, num_classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_predictor=MaskRCNNPredictor(num_features, _MASK_CHANNELS, num_classes) if masks else None,
        )
        self._initialise()

    def _initialise(self) -> None:
        # Fast R-CNN's, and so detectron2's: N(0, 0.01) for classes, N(0, 0.001) for boxes.
        for layer, std in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def has_mask(self) -> bool:
        """Whether masks are predicted; torchvision would ask for a pool and a head of their own."""
        return self.mask_predictor is not None

    def _masks(self, regions: Tensor) -> Tensor:
        assert self.mask_predictor is not None
        return self.mask_predictor(regions)

    def _regions(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        pooled = roi_align(features["0"], boxes, REGION, 1 / STRIDE, sampling_ratio=0, aligned=True)
        return self.box_head(pooled)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """In training ([], losses), else (detections of each image, {})."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, targets)
        logits, deltas = self.box_predictor(self._regions(features, proposals).mean((2, 3)))
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        result: list[Target] = [
            {"boxes": boxes, "labels": labels, "scores": scores}
            for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.has_mask():
            masks = self._masks(self._regions(features, [image["boxes"] for image in result]))
            probabilities = maskrcnn_inference(masks, [image["labels"] for image in result])
            for image, mask in zip(result, probabilities, strict=True):
                image["masks"] = mask
        return result, {}

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        proposals, matched, labels, regression = self.select_training_samples(proposals, targets)
        shared = self._regions(features, proposals)
        logits, deltas = self.box_predictor(shared.mean((2, 3)))
        of_class, of_box = fastrcnn_loss(logits, deltas, labels, regression)
        losses = {"loss_classifier": of_class, "loss_box_reg": of_box}
        if self.has_mask():
            positive = [each > 0 for each in labels]
            losses["loss_mask"] = maskrcnn_loss(
                self._masks(shared[torch.cat(positive)]),
                [boxes[mine] for boxes, mine in zip(proposals, positive, strict=True)],
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [ids[mine] for ids, mine in zip(matched, positive, strict=True)],
            )
        return losses


def check_backbone(backbone: Backbone, freeze_at: int) -> ResNet:
    """The backbone, if `c4_detector` can build on it; else `ValueError`."""
    if not isinstance(backbone, ResNet) or backbone.conv1.stride != (2, 2):
        raise ValueError(
            "a C4 detector needs a ResNet with the stem for large images (stride 16 at layer3): one that was "
            "trained with --model.stem imagenet"
        )
    if not 0 <= freeze_at <= 4:
        raise ValueError(f"freeze_at must lie in [0, 4], not {freeze_at}")
    return backbone


def c4_detector(
    backbone: Backbone,
    num_classes: int,
    *,
    masks: bool = False,
    sizes: Sequence[int] = (800,),
    max_size: int = 1333,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    freeze_at: int = 0,
    dtype: torch.dtype = torch.float32,
) -> GeneralizedRCNN:
    """Faster R-CNN (Mask R-CNN with `masks`) C4 on a copy of the backbone, with torchvision's interface.

    It takes a list of images float32 [3, H, W] in [0, 1], in training a list of `Target`, too, and gives a
    dict of losses, or boxes, labels, scores (and masks) of each image. `num_classes` counts the background.
    Images are normalised by `mean` and `std` and resized, bilinear without antialiasing, to a shorter side of
    one of `sizes` pixels: one that is drawn in training, the last otherwise. Batch norm is over the images of
    all ranks. `freeze_at` is detectron2's: how many of stem, layer1, layer2, layer3 stay as they are, batch
    norm's statistics among it; the paper trains all. `dtype`: autocast of backbone and region head. What is
    new is drawn from torch's global random state. `ValueError` for a backbone whose map has another stride.
    """
    body = copy.deepcopy(check_backbone(backbone, freeze_at)).requires_grad_(True)
    trunk = Trunk(body, dtype)
    anchors = AnchorGenerator((ANCHOR_SIZES,), (ASPECT_RATIOS,))
    rpn = RegionProposalNetwork(
        anchors,
        RPNHead(trunk.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 12_000, "testing": 6000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )
    heads = C4Heads(RegionHead(body, dtype), body.num_features, num_classes, masks=masks)
    transform = GeneralizedRCNNTransform(
        list(sizes),  # pyright: ignore[reportArgumentType] (it takes several)
        max_size,
        list(mean),
        list(std),
        size_divisible=STRIDE,
    )
    detector = _Detector(trunk, rpn, heads, transform)
    detector.freeze(freeze_at)
    return detector


class _Detector(GeneralizedRCNN):
    """torchvision's, with frozen stages that stay in evaluation mode when the rest trains."""

    def __init__(self, trunk: Trunk, rpn: nn.Module, heads: nn.Module, transform: nn.Module) -> None:
        super().__init__(trunk, rpn, heads, transform)
        self._frozen: list[nn.Module] = []

    def freeze(self, stages: int) -> None:
        assert isinstance(self.backbone, Trunk)
        self._frozen = [module for stage in self.backbone.stages()[:stages] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> _Detector:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
