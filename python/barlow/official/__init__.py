"""Here: runs of the official code (facebookresearch/barlowtwins) as runs of ours: its flags, its checkpoints.

Not here: training, our own checkpoints, formats that we write for others (export.py).
"""

from barlow.official.flags import Translation, translate
from barlow.official.imported import Imported, import_run

__all__ = ["Imported", "Translation", "import_run", "translate"]
