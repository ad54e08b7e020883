"""Barlow Twins self-supervised learning (Zbontar et al., ICML 2021), from images on disk to a backbone.

`barlow.data.Loader` feeds any method; `barlow.objectives.barlow_twins` and `barlow.optim.LARS` work in any
trainer; the `barlow` command does the whole job.
"""

from importlib import metadata

try:
    __version__ = metadata.version("barlow")
except metadata.PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+checkout"
