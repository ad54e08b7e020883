"""What a form costs, which one is chosen, half precision, memory at 65,536 dimensions, compilation."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from barlow.objectives import Form, barlow_twins, choose_form, correlation_summary, cross_correlation
from barlow.objectives.forms import FORMS, operations, sent_bytes
from barlow.objectives.gram import gram

MIB = 2**20


def pair(num_samples: int, num_dims: int, *, noise: float = 0.7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(num_samples, num_dims, generator=generator)
    z1, z2 = (shared + noise * torch.randn(shared.shape, generator=generator) for _ in range(2))
    return z1.requires_grad_(), z2.requires_grad_()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(24, 64), (64, 24)])
def test_the_operations_are_those_that_the_choice_counts_with(shape: tuple[int, int], form: Form) -> None:
    z1, z2 = pair(*shape)
    with FlopCounterMode(display=False) as counter:
        barlow_twins(z1, z2, form=form).backward()
    assert counter.get_total_flops() == operations(form, *shape, 1)


def official(z1_ND: Tensor, z2_ND: Tensor, lambd: float) -> Tensor:
    """The official code's way: batch norm, C, autograd through all of it."""
    norm = torch.nn.BatchNorm1d(z1_ND.shape[1], affine=False)
    c_DD = norm(z1_ND).T @ norm(z2_ND) / len(z1_ND)
    off = c_DD - torch.diag(c_DD.diagonal())
    return (c_DD.diagonal() - 1).square().sum() + lambd * off.square().sum()


def test_at_256_samples_of_8192_dimensions_there_is_a_twentieth_of_the_work() -> None:
    work = {}
    with FakeTensorMode():  # shapes alone
        z1, z2 = (torch.empty(256, 8192, requires_grad=True) for _ in range(2))
        with FlopCounterMode(display=False) as counter:
            official(z1, z2, 0.0051).backward()
        work["official"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            barlow_twins(z1, z2).backward()
        work["ours"] = counter.get_total_flops()
    assert work["ours"] > 0
    assert work["official"] / work["ours"] == 24


# Worked out by hand in MiB and TFLOP, large terms only, for 2048 samples: D, W, C in float32, Gram matrices
# sharded over samples (half precision), operations by C and by Gram matrices.
TABLE = [
    (8192, 8, 448, 56, 0.103, 0.034),
    (8192, 16, 480, 60, 0.052, 0.017),
    (16384, 32, 1984, 124, 0.103, 0.017),
    (65536, 8, 28672, 448, 6.60, 0.275),
]


@pytest.mark.parametrize(("dims", "size", "c_mib", "gram_mib", "c_tflop", "gram_tflop"), TABLE)
def test_costs_worked_out_by_hand(
    dims: int, size: int, c_mib: float, gram_mib: float, c_tflop: float, gram_tflop: float
) -> None:
    moments_mib = 4 * 4 * dims * (size - 1) / MIB
    sent = sent_bytes("correlation", 2048, dims, size) / MIB - moments_mib
    assert sent == pytest.approx(c_mib, rel=2e-3)
    sent = sent_bytes("gram", 2048, dims, size, 2) / MIB - moments_mib
    assert sent == pytest.approx(gram_mib, rel=0.03)
    assert operations("correlation", 2048, dims, size) / 1e12 == pytest.approx(c_tflop, abs=5e-3)
    assert operations("gram", 2048, dims, size) / 1e12 == pytest.approx(gram_tflop, abs=1e-3)


@pytest.mark.parametrize(
    ("num_samples", "num_dims", "world_size", "half", "form"),
    [
        (256, 8192, 1, False, "gram"),
        (256, 512, 1, False, "gram"),
        (2048, 512, 1, False, "correlation"),
        (2048, 512, 8, False, "correlation"),
        (768, 1024, 1, False, "correlation"),  # N = 3/4 D: as much work, no gathering
        (767, 1024, 1, False, "gram"),
        (2048, 8192, 2, False, "gram"),  # two ranks exchange as much either way, and the matrices on top
        (2048, 8192, 32, False, "gram_features"),
        (2048, 8192, 4, True, "gram"),  # the gradients go home in float32, the gathered embeddings do not
        (2048, 65536, 16, True, "gram_features"),
        (4096, 8192, 16, True, "gram"),  # the matrices are as large as the embeddings
    ],
)
def test_the_choice(num_samples: int, num_dims: int, world_size: int, half: bool, form: str) -> None:
    chosen, reason = choose_form(num_samples, num_dims, world_size, half=half)
    assert chosen == form
    assert "FLOP" in reason
    assert ("sent" in reason) == (world_size > 1)


def test_the_reason_has_the_numbers() -> None:
    reason = choose_form(256, 8192)[1]
    assert reason.startswith("256 x 256 Gram matrices")
    assert "4.29 GFLOP a step and rank, not 103 GFLOP (correlation)" in reason


def test_auto_takes_the_choice() -> None:
    """Seen by the operations: the numbers are alike."""
    for shape in [(12, 64), (64, 12)]:
        z1, z2 = pair(*shape)
        with FlopCounterMode(display=False) as counter:
            barlow_twins(z1, z2).backward()
        assert counter.get_total_flops() == operations(choose_form(*shape)[0], *shape, 1)


def test_a_compiler_may_trace_the_choice_for_batches_of_any_size() -> None:
    """From the second size on the number of samples is a symbol to it."""
    torch.compiler.reset()
    compiled = torch.compile(barlow_twins, backend="aot_eager", fullgraph=True)
    for num_samples in (12, 10, 90, 80):
        z1, z2 = pair(num_samples, 40)
        found, expected = (torch.autograd.grad(loss(z1, z2), (z1, z2)) for loss in (compiled, barlow_twins))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(20, 90), (90, 20), (5, 1)])
def test_the_summary_is_that_of_the_matrix(shape: tuple[int, int], form: Form) -> None:
    z1, z2 = (z.detach().double() for z in pair(*shape))
    c_DD = cross_correlation(z1, z2, eps=0.01)
    summary = correlation_summary(z1, z2, form=form, eps=0.01)
    assert summary.on_diagonal == pytest.approx(c_DD.diagonal().mean().item(), rel=1e-10)
    off = c_DD[~torch.eye(shape[1], dtype=torch.bool)]
    assert summary.off_diagonal_rms == pytest.approx(off.square().mean().sqrt().item() if len(off) else 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "noise"), [((64, 96), 0.7), ((256, 2048), 0.1), ((32, 32768), 0.7)])
def test_products_of_halves_cost_less_than_half_a_percent(
    shape: tuple[int, int], noise: float, dtype: torch.dtype
) -> None:
    """A GPU multiplies half-precision operands as such, with sums in float32; here the same by hand."""
    z1, z2 = (z.detach().to(dtype) for z in pair(*shape, noise=noise))
    _, exact = gram(z1.float(), z2.float(), 0.0051, 0.0, None, True)
    terms, ours = gram(z1, z2, 0.0051, 0.0, None, True, dtype)
    assert exact is not None
    assert ours is not None
    assert terms.redundancy.isfinite()
    assert 1e-6 < (ours - exact).norm() / exact.norm() < 5e-3


SCRIPT = """
import resource, torch
from barlow.objectives import barlow_twins, correlation_summary
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
z1, z2 = (torch.randn(256, 65536, generator=generator).requires_grad_() for _ in range(2))
barlow_twins(z1, z2).backward()
assert z1.grad.abs().max() > 0 and z2.grad.isfinite().all()
correlation_summary(z1, z2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_65536_dimensions_of_256_samples_need_less_than_3_gb() -> None:
    source = Path(__file__).parents[1] / "python"
    paths = [str(source), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{SCRIPT}"],
        capture_output=True, text=True, check=False, timeout=120,
        # C alone would be 16 GiB; torch with CUDA's libraries maps more than it uses.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, 3 * 10**9)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 3e9


@pytest.mark.parametrize("form", FORMS)
def test_it_compiles_into_one_graph(form: Form) -> None:
    z1, z2 = pair(8, 24)
    compiled = torch.compile(
        lambda a, b: 2 * barlow_twins(a, b, form=form), backend="aot_eager", fullgraph=True
    )
    ours, plain = compiled(z1, z2), 2 * barlow_twins(z1, z2, form=form)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(plain, (z1, z2)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
