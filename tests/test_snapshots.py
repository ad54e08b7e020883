"""Snapshots of the matrix during training: when, what is in them, which ones a resumed run forgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from barlow.train import snapshots
from barlow.train.learner import Plan


def plan(last: int, log_every: int) -> Plan:
    return Plan(steps_per_epoch=10, total_steps=last, last_step=last, log_every=log_every, save_every=10)


@pytest.mark.parametrize(
    ("last", "log_every", "expected"),
    [
        (20, 1, [1, 2, 4, 8, 16, 20]),
        (100, 5, [1, 5, 10, 20, 35, 65, 100]),
        (9, 100, [1, 9]),
        (1, 3, [1]),
    ],
)
def test_they_become_ever_more_seldom(last: int, log_every: int, expected: list[int]) -> None:
    of = plan(last, log_every)
    assert [step for step in range(1, last + 1) if snapshots.due(step, of)] == expected


def test_the_longest_run_takes_few() -> None:
    of = plan(625_000, 20)
    taken = [step for step in range(1, of.last_step + 1) if snapshots.due(step, of)]
    assert len(taken) == 18
    assert taken[-1] == of.last_step
    assert all(of.logs(step) for step in taken)


@pytest.mark.parametrize("num_dims", [7, 200])
def test_it_is_a_part_of_the_true_matrix(tmp_path: Path, num_dims: int) -> None:
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 50, num_dims))
    snapshots.take(tmp_path, 3, [torch.tensor(z1), torch.tensor(z2)], 0.0)
    found = load_file(tmp_path / "snapshots" / "step-00000003.safetensors")
    whole = np.corrcoef(z1.T, z2.T)[:num_dims, num_dims:]
    dims = found["dims"]
    assert len(dims) == min(64, num_dims)
    assert dims.tolist() == [int((i + 0.5) * num_dims / len(dims)) for i in range(len(dims))]
    assert found["cross_correlation"].dtype == np.float32
    assert np.allclose(found["cross_correlation"], whole[np.ix_(dims, dims)], atol=1e-6)
    snapshots.take(None, 4, [torch.tensor(z1), torch.tensor(z2)], 0.0)  # another rank
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_a_resumed_run_forgets_what_it_has_not_seen(tmp_path: Path) -> None:
    snapshots.forget_after(tmp_path, 0)  # a run without any
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for step in (1, 4, 8):
        snapshots.take(tmp_path, step, [z, z], 0.0)
    (tmp_path / "snapshots" / "step-notes.safetensors").touch()
    snapshots.forget_after(tmp_path, 4)
    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert names == ["step-00000001.safetensors", "step-00000004.safetensors", "step-notes.safetensors"]
