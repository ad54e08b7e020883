"""How an image is looked at: views as descriptions, the recipes of the methods, and both as text.

    recipe = views.dino(local_crops=8)                 # a list of views for `Loader(..., views=recipe)`
    print(views.table(recipe))                         # as the paper's table of probabilities
    views.parse(views.describe(recipe)) == recipe      # as text, for a config file or a command line

Rust draws and applies what is described here. docs/views.md explains the text.
"""

from barlow.data.views.description import (
    ColorJitter,
    Crop,
    Flip,
    GaussianBlur,
    Grayscale,
    Interpolation,
    Operation,
    RandomResizedCrop,
    Range,
    ResizeCenterCrop,
    Solarize,
    View,
    words,
)
from barlow.data.views.recipes import (
    barlow_twins,
    byol,
    dino,
    evaluation,
    linear_probe,
    mae,
    moco_v2,
    simclr,
    swav,
    training,
    vicreg,
)
from barlow.data.views.text import describe, parse, table

__all__ = [
    "ColorJitter",
    "Crop",
    "Flip",
    "GaussianBlur",
    "Grayscale",
    "Interpolation",
    "Operation",
    "RandomResizedCrop",
    "Range",
    "ResizeCenterCrop",
    "Solarize",
    "View",
    "barlow_twins",
    "byol",
    "describe",
    "dino",
    "evaluation",
    "linear_probe",
    "mae",
    "moco_v2",
    "parse",
    "simclr",
    "swav",
    "table",
    "training",
    "vicreg",
    "words",
]
