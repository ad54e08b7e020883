"""Images on disk to batches of augmented views, and what a notebook needs to look inside.

    loader = Loader("shards/", views=views.barlow_twins(), batch_size=256)
    for batch in loader:
        x1, x2 = to_float(batch.views, mean, std, device="cuda")

The work is Rust's (`barlow._native`, imported here only). `decode`, `draw` and `apply` are the loader's own
steps one at a time, so that what they give is what training sees.
"""

from barlow._native import (
    DataError,
    Index,
    Order,
    apply,
    decode,
    draw,
    index_path,
    pack,
    peek,
    recode,
    restore,
    simd,
    unpack,
)
from barlow.data import views
from barlow.data.device import normalise, to_float
from barlow.data.loader import Batch, Loader
from barlow.data.source import Source, index_source, open_index
from barlow.data.staged import AnyLoader, StagedLoader, StageName, staged
from barlow.data.stats import StageStats, Stats
from barlow.data.views import View

__all__ = [
    "AnyLoader",
    "Batch",
    "DataError",
    "Index",
    "Loader",
    "Order",
    "Source",
    "StageName",
    "StageStats",
    "StagedLoader",
    "Stats",
    "View",
    "apply",
    "decode",
    "draw",
    "index_path",
    "index_source",
    "normalise",
    "open_index",
    "pack",
    "peek",
    "recode",
    "restore",
    "simd",
    "staged",
    "to_float",
    "unpack",
    "views",
]
