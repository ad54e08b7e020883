"""Fixtures that several test files need, and what holds for all of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell starts background jobs deaf to Ctrl-C, and children inherit that: the tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout (or beside its worktrees); tests skip without it."""
    for parent in Path(__file__).resolve().parents[2:4]:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared" / "data"
    pytest.skip("no real images beside the checkout")
