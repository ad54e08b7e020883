"""Fixtures that several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout (or beside its worktrees); tests skip without it."""
    for parent in Path(__file__).resolve().parents[2:4]:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared" / "data"
    pytest.skip("no real images beside the checkout")
