"""The process group and its collectives, in real processes."""

from __future__ import annotations

import os
import time

import pytest
import torch

from barlow import distributed
from barlow.distributed import World
from processes import run


def collectives(world: World) -> dict[str, object]:
    x = torch.full((3,), world.rank + 1.0, requires_grad=True)
    total = distributed.all_reduce(x)
    (total.square().sum() / 2).backward()
    return {
        "total": total.detach(),
        "grad": x.grad,
        "gathered": distributed.all_gather(torch.tensor([world.rank, 7])),
        # To rank r go r + 1 copies of 10 rank + r; none to the last.
        "exchanged": distributed.all_to_all(
            torch.tensor([10 * world.rank] + [10 * world.rank + 1] * 2),
            [1, 2, 0],
            [(1, 2, 0)[world.rank]] * 3,
        ),
        "values": distributed.gather_values({"rank": world.rank, "text": "x" * world.rank}),
        "broadcast": distributed.broadcast_value(["from", world.rank], source=1),
    }


def test_collectives_of_three_processes() -> None:
    for rank, result in enumerate(run(collectives, 3)):
        assert result["exchanged"].tolist() == [[0, 10, 20], [1, 1, 11, 11, 21, 21], []][rank]
        assert result["total"].tolist() == [6.0] * 3
        # Each of 3 ranks has the loss |total|^2 / 2 with gradient total: summed over the ranks, 3 * 6.
        assert result["grad"].tolist() == [18.0] * 3
        assert result["gathered"].tolist() == [[0, 7], [1, 7], [2, 7]]
        assert result["values"] == [{"rank": rank, "text": "x" * rank} for rank in range(3)]
        assert result["broadcast"] == ["from", 1]


def test_collectives_of_one_process_are_identities() -> None:
    x = torch.randn(3, requires_grad=True)
    assert distributed.all_reduce(x) is x
    assert distributed.all_gather(x).shape == (1, 3)
    assert distributed.all_to_all(x, [3], [3]).tolist() == x.tolist()
    assert distributed.gather_values({"a": (1, 2)}) == [{"a": [1, 2]}]
    assert distributed.broadcast_value("x") == "x"
    distributed.agree({"anything": 1})
    distributed.barrier()


def disagree(world: World) -> str:
    distributed.agree({"seed": 5, "sizes": [1, 2]})
    facts = {"data": "abd" if world.rank == 2 else "abc", "seed": world.rank, "x": None, "y": (3,)}
    with pytest.raises(ValueError, match="disagree") as caught:
        distributed.agree({**facts, **({"views": 2} if world.rank == 1 else {})})
    return str(caught.value)


def test_disagreement_names_ranks_and_entries_on_every_rank() -> None:
    assert (
        run(disagree, 7)
        == [
            "the ranks disagree: data is abd on rank 2 and abc on rank 0; "
            "seed is 1 on rank 1, 2 on rank 2, 3 on rank 3, 4 on rank 4 (and on 2 more) and 0 on rank 0; "
            "views is 2 on rank 1 and None on rank 0"
        ]
        * 7
    )


def late(world: World) -> float:
    if world.rank == 1:
        time.sleep(0.5)
    before = time.monotonic()
    distributed.barrier()
    return time.monotonic() - before


def test_barrier_waits() -> None:
    assert run(late, 2)[0] > 0.3


def fail_on_rank_1(world: World) -> None:
    if world.rank == 1:
        raise KeyError("only here")
    distributed.barrier()


def test_the_failure_of_one_rank_ends_the_others() -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match="only here") as caught:
        run(fail_on_rank_1, 2, timeout_s=60)
    assert time.monotonic() - began < 40
    assert "--- rank 0" in str(caught.value), "rank 0 should have failed too, not been killed"
    assert "by force: ranks []" in str(caught.value)


def test_merged_moments_are_those_of_the_union_even_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(n, 4, generator=generator) * 1e-2 + 1000 for n in (1, 17, 300)]
    counts = torch.tensor([1.0, 17.0, 300.0])
    means = torch.stack([x.double().mean(0).float() for x in sets])
    m2s = torch.stack(
        [(x.double() - mean).square().sum(0).float() for x, mean in zip(sets, means, strict=True)]
    )
    count, mean, m2 = distributed.merge_moments(counts, means, m2s)
    union = torch.cat(sets).double()
    assert count == 318
    torch.testing.assert_close(mean.double(), union.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(m2.double() / count, union.var(0, correction=0), rtol=1e-3, atol=0)


def test_sets_with_equal_means_merge_to_exactly_that_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(1, 1000, (5,), generator=generator).float()
        mean = torch.randn(1, generator=generator)
        merged = distributed.merge_moments(counts, mean.expand(5, 1), torch.zeros(5, 1))
        assert (merged[1].item(), merged[2].item()) == (mean.item(), 0)


NO_RUN = {
    name: None
    for name in os.environ
    if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
}


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in NO_RUN:
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_without_an_environment_the_world_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch)
    with distributed.process_group("cpu") as world:
        assert world == World(0, 1, 0, torch.device("cpu"))
        assert not torch.distributed.is_initialized()


def test_a_batch_script_outside_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_LOCALID="0", SLURM_JOB_ID="3")
    with distributed.process_group("cpu") as world:
        assert world.size == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": "0"}, "lacks WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "lacks LOCAL_RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK='x'"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_incomplete_environment(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str
) -> None:
    environment(monkeypatch, **values)
    with pytest.raises(ValueError, match=message), distributed.process_group("cpu"):
        pass


def test_an_absent_master_is_an_error_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
    }
    environment(monkeypatch, **values)
    with (
        pytest.raises(RuntimeError, match=r"rank 1 of 2 did not meet the others at 127\.0\.0\.1:9"),
        distributed.process_group("cpu", timeout_s=1),
    ):
        pass


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("n1", "n1"), ("gpu[07-09,12],n3", "gpu07"), ("a-b[3]-ib,c", "a-b3-ib"), ("x1,x2", "x1")],
)
def test_first_host_of_a_slurm_node_list(nodelist: str, host: str) -> None:
    assert distributed.first_host(nodelist) == host


def test_gpus_only_if_every_rank_has_its_own() -> None:
    one, other, elsewhere = ["a", 0, "GPU-1"], ["a", 1, "GPU-2"], ["b", 0, "GPU-1"]
    use = distributed._use_cuda
    assert use([one, other, elsewhere], "auto")
    assert not use([None, None], "auto")
    assert not use([one, other], "cpu")
    with pytest.warns(UserWarning, match="rank 1 of 3 has no GPU of its own"):
        assert not use([one, one, other], "auto")
    with pytest.raises(RuntimeError, match="rank 1 of 2 has no GPU of its own"):
        use([one, None], "cuda")


def test_slurm_step_names_rank_and_meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "20000",
        "SLURM_STEP_NODELIST": "gpu[3-4]",
    }
    environment(monkeypatch, **slurm)
    place = distributed._slurm()
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.url) == (5, 8, 1, "tcp://gpu3:15904")
    environment(monkeypatch, **slurm, MASTER_ADDR="10.0.0.1", MASTER_PORT="7")
    place = distributed._slurm()
    assert place is not None
    assert place.url == "tcp://10.0.0.1:7"
