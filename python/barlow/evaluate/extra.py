"""Here: one clear line where a protocol needs a library that is not installed.

Not here: the libraries; a protocol imports them where it uses them.
"""

from __future__ import annotations

from importlib.util import find_spec


def needs(module: str, protocol: str) -> None:
    """`ValueError` that says how to get `module`, if it is not installed."""
    if find_spec(module) is None:
        raise ValueError(f"{protocol} needs {module}: pip install scikit-learn")
