"""A run that is killed at random moments goes on as if it never had been (R10); `tests/kills.py` does it.

`BARLOW_KILLS=200` is the long protocol; `python tests/kills.py --kills 1000` the same without pytest.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import nursery

KILLS = int(os.environ.get("BARLOW_KILLS", "10"))
ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(300 + 20 * KILLS)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), *sys.path])}
    command = [sys.executable, Path(__file__).with_name("kills.py"), "--kills", str(KILLS)]
    done = nursery.run([*map(str, command), "--folder", str(tmp_path)], env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["kills"] == KILLS
    assert found["finished runs, all bit-equal"] >= 1
    assert "a checkpoint was being written" in found["moments"]
