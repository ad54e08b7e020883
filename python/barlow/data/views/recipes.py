"""Here: the views of the methods, each as its paper or its authors' code has them, and those of our own runs.

Not here: what a view is (`description.py`), losses, normalisation (the codes use ImageNet's mean and
deviation; SwAV's has 0.228 for red where the others have 0.229).

Each function names its source. "TensorFlow" in one says that the authors' pixels are not Pillow's: their
resize is not antialiased and their images are floats between the steps, where ours (like torchvision's on
Pillow images) are rounded to 8 bits after each. Further differences are named one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from barlow.config import DataConfig
from barlow.data.views.description import (
    ColorJitter,
    Flip,
    GaussianBlur,
    Grayscale,
    RandomResizedCrop,
    Range,
    ResizeCenterCrop,
    Solarize,
    View,
)
from barlow.data.views.text import parse

_SIGMA: Range = (0.1, 2.0)


def barlow_twins(size: int = 224, scale: Range = (0.08, 1.0), blur: bool = True) -> list[View]:
    """Two views: Zbontar et al. 2021, section 2.1 and appendix A; facebookresearch/barlowtwins, main.py.

    `blur=False` leaves the blur out, as recipes for images of about 32 pixels do.
    """

    def view(blur_p: float, solarize_p: float) -> View:
        return View(
            RandomResizedCrop(size, scale, interpolation="bicubic"),
            (
                *_flip_jitter_grey(),
                GaussianBlur(_SIGMA, p=blur_p if blur else 0.0),
                Solarize(threshold=128, p=solarize_p),
            ),
        )

    return [view(blur_p=1.0, solarize_p=0.0), view(blur_p=0.1, solarize_p=0.2)]


def byol(size: int = 224) -> list[View]:
    """Two views: Grill et al. 2020, appendix B, table 6; google-deepmind/deepmind-research, byol/utils.

    Barlow Twins took them over. TensorFlow and JAX; there, moreover, brightness is added (up to 0.4 of the
    full range) rather than multiplied, contrast is about each channel's own mean, saturation is that of
    HSV, and a window that is too wide or high is cut to the image rather than drawn again.
    """
    return barlow_twins(size)


def simclr(size: int = 224, strength: float = 1.0, blur: bool = True) -> list[View]:
    """Two equal views: Chen et al. 2020 (ICML), appendix A; google-research/simclr, data_util.py.

    `strength` scales the colour jitter. For CIFAR-10 the paper (appendix B.9) has `strength=0.5, blur=False`.

    TensorFlow; there, moreover, the window's height and its aspect ratio are uniform (here the area and the
    logarithm of the ratio, as the paper and every PyTorch version have it), the contrast is about each
    channel's own mean, saturation is that of HSV, and the blur's kernel ends at 10 % of the side (which
    takes nothing off it at 224 pixels).
    """
    view = View(
        RandomResizedCrop(size, (0.08, 1.0), interpolation="bicubic"),
        (
            Flip(p=0.5),
            ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
            Grayscale(p=0.2),
            GaussianBlur(_SIGMA, p=0.5 if blur else 0.0),
        ),
    )
    return [view, view]


def moco_v2(size: int = 224) -> list[View]:
    """Two equal views: Chen et al. 2020 (arXiv 2003.04297); facebookresearch/moco, main_moco.py --aug-plus.

    A weaker jitter than SimCLR's, crops of at least a fifth, bilinear, and the flip comes last.
    """
    view = View(
        RandomResizedCrop(size, (0.2, 1.0), interpolation="bilinear"),
        (
            ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            Grayscale(p=0.2),
            GaussianBlur(_SIGMA, p=0.5),
            Flip(p=0.5),
        ),
    )
    return [view, view]


def vicreg(size: int = 224) -> list[View]:
    """Two equal views: Bardes et al. 2022 (ICLR), appendix C.1, which makes those of BYOL symmetric.

    The authors' code (facebookresearch/vicreg, augmentations.py) was published with BYOL's two different
    views instead: for these, `byol()`. The paper names no range of sigma (BYOL's is taken, as the code
    does) and no filter (bicubic, as the code), but a kernel of 23 pixels; ours is Pillow's, which has no end.
    """
    view = View(
        RandomResizedCrop(size, (0.08, 1.0), interpolation="bicubic"),
        (*_flip_jitter_grey(), GaussianBlur(_SIGMA, p=0.5), Solarize(threshold=128, p=0.1)),
    )
    return [view, view]


def dino(
    local_crops: int = 8,
    size: int = 224,
    local_size: int = 96,
    scale: Range = (0.4, 1.0),
    local_scale: Range = (0.05, 0.4),
) -> list[View]:
    """Two global views, then `local_crops` small ones: Caron et al. 2021 (ICCV), section 3.

    The values are the defaults of facebookresearch/dino, main_dino.py; its runs of ResNet-50 have the scales
    (0.14, 1) and (0.05, 0.14).
    """
    wide = RandomResizedCrop(size, scale, interpolation="bicubic")
    narrow = RandomResizedCrop(local_size, local_scale, interpolation="bicubic")
    first = View(wide, (*_flip_jitter_grey(), GaussianBlur(_SIGMA, p=1.0)))
    second = View(wide, (*_flip_jitter_grey(), GaussianBlur(_SIGMA, p=0.1), Solarize(threshold=128, p=0.2)))
    local = View(narrow, (*_flip_jitter_grey(), GaussianBlur(_SIGMA, p=0.5)))
    return [first, second, *[local] * local_crops]


def swav(
    local_crops: int = 6,
    size: int = 224,
    local_size: int = 96,
    scale: Range = (0.14, 1.0),
    local_scale: Range = (0.05, 0.14),
) -> list[View]:
    """Two views, then `local_crops` small ones: Caron et al. 2020 (NeurIPS), section 3.3 and appendix.

    facebookresearch/swav, src/multicropdataset.py with the flags of scripts/swav_800ep_pretrain.sh. The
    resize is bilinear, the jitter SimCLR's.
    """

    def view(side: int, area: Range) -> View:
        jitter = ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)
        return View(
            RandomResizedCrop(side, area, interpolation="bilinear"),
            (Flip(p=0.5), jitter, Grayscale(p=0.2), GaussianBlur(_SIGMA, p=0.5)),
        )

    return [view(size, scale)] * 2 + [view(local_size, local_scale)] * local_crops


def mae(size: int = 224) -> list[View]:
    """One view, crop and flip: He et al. 2022, appendix A.1; facebookresearch/mae, main_pretrain.py."""
    return [View(RandomResizedCrop(size, (0.2, 1.0), interpolation="bicubic"), (Flip(p=0.5),))]


def linear_probe(size: int = 224) -> list[View]:
    """The one view on which a linear classifier trains; facebookresearch/barlowtwins, evaluate.py."""
    return [View(RandomResizedCrop(size, interpolation="bilinear"), (Flip(p=0.5),))]


def evaluation(size: int = 224, resize: int = 256) -> list[View]:
    """The one view of evaluation, the same pixels every time; facebookresearch/barlowtwins, evaluate.py."""
    return [View(ResizeCenterCrop(resize, size, interpolation="bilinear"))]


def training(data: DataConfig) -> list[View]:
    """The two views that a run with these settings trains on; `ValueError` if they do not give two."""
    return [_without(view, data.without) for view in _named_or_written(data)]


_KINDS = {"flip": Flip, "jitter": ColorJitter, "grey": Grayscale, "blur": GaussianBlur, "solarize": Solarize}


def _without(view: View, names: Sequence[str]) -> View:
    removed = tuple(_KINDS[name] for name in names)
    return View(view.crop, tuple(step for step in view.operations if not isinstance(step, removed)))


def _named_or_written(data: DataConfig) -> list[View]:
    if data.augmentation in ("barlow_twins", "barlow_twins_small"):
        blur = data.augmentation == "barlow_twins"
        return barlow_twins(data.image_size, scale=data.crop_scale, blur=blur)
    try:
        recipe = parse(data.augmentation)
    except ValueError as error:
        message = str(error).partition("\n")[0]  # the rest points at words of a text that is right here
        raise ValueError(
            f"--data.augmentation {data.augmentation!r}: neither barlow_twins nor barlow_twins_small nor the "
            f"text of two views: {message}"
        ) from None
    sizes = [view.size for view in recipe]
    if sizes != [data.image_size] * 2:
        raise ValueError(
            f"--data.augmentation must give two views of --data.image-size {data.image_size}, not of {sizes}"
        )
    return recipe


def _flip_jitter_grey() -> tuple[Flip, ColorJitter, Grayscale]:
    """What BYOL, Barlow Twins, VICReg and DINO begin with."""
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8)
    return Flip(p=0.5), jitter, Grayscale(p=0.2)
