"""DINO (Caron et al., ICCV 2021) in one file: barlow's loader and plain torch.

    python docs/examples/dino.py IMAGES --steps 500

IMAGES is whatever the loader reads: a folder, a tar, shards. A student sees two large and several small
crops of each image, a teacher only the large ones; the student learns to say of each crop what the teacher
says of another one. The teacher is a running mean of the student. Centring and sharpening its output keep
both from saying the same of everything (section 3.1, algorithm 1). Every image is decoded once for all crops.

Sizes and rates here are for small images and a small batch; the paper's are named beside them. Left out: the
warm-ups, the schedule of the weight decay, and the first epoch's pause of the prototypes. The loss alone says
little: its targets move with the teacher and the centre, and it rises before it falls.
"""

from __future__ import annotations

import argparse
import copy
import math
from itertools import chain, groupby, islice, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Loader, to_float, views

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.04  # the authors' code offers a warm-up to higher values
CENTRE_MOMENTUM = 0.9
TEACHER_MOMENTUM = 0.98  # rises to 1; paper: 0.996, with which the teacher of a short run stays what it was


def dino_loss(student_VNK: Tensor, teacher_GNK: Tensor, centre_K: Tensor) -> Tensor:
    """Mean cross-entropy between the teacher on one view and the student on another, over all such pairs.

    V views of N images are scored for K prototypes; the first G views are those that the teacher sees.
    """
    targets_GNK = ((teacher_GNK - centre_K) / TEACHER_TEMPERATURE).softmax(-1).detach()
    log_p_VNK = (student_VNK / STUDENT_TEMPERATURE).log_softmax(-1)
    entropy_GV = -torch.einsum("gnk,vnk->gv", targets_GNK, log_p_VNK) / targets_GNK.shape[1]
    other_GV = ~torch.eye(*entropy_GV.shape, dtype=torch.bool, device=entropy_GV.device)
    return entropy_GV[other_GV].mean()


class Scorer(nn.Module):
    """A ResNet-18 and DINO's head: an MLP, then cosine similarity to prototypes (appendix C).

    The fewer the dimensions of the cosine, the sharper the first scores: short runs need that.
    """

    def __init__(self, prototypes: int, hidden: int = 512, bottleneck: int = 32) -> None:
        super().__init__()  # paper: 65536 prototypes, hidden 2048, bottleneck 256
        self.backbone = resnet18()
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Scores [V, N, K] of V crops [N, 3, H, W]; neighbours of one size share a pass of the backbone."""
        groups = [torch.cat(list(equal)) for _, equal in groupby(crops, lambda crop: crop.shape)]
        z = F.normalize(self.mlp(torch.cat([self.backbone(group) for group in groups])), dim=-1)
        # Unit rows: weight norm with its gain fixed at 1, as the authors' code has it by default.
        return (z @ F.normalize(self.prototypes, dim=-1).T).unflatten(0, (len(crops), -1))


def train(
    images: str, steps: int, batch_size: int, size: int, local_crops: int, prototypes: int, seed: int
) -> Scorer:
    """The teacher after so many steps."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Scorer(prototypes).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    centre_K = torch.zeros(prototypes, device=device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    recipe = views.dino(local_crops, size=size, local_size=size // 2)  # paper: 224 and 96 pixels
    print(views.table(recipe))

    with Loader(images, views=recipe, batch_size=batch_size, seed=seed) as loader:
        epochs = chain.from_iterable(repeat(loader))  # each pass over the loader is one epoch
        for step, batch in enumerate(islice(epochs, steps), 1):
            crops = to_float(batch.views, IMAGENET_MEAN, IMAGENET_STD, device=device)
            teacher_GNK = teacher(crops[:2])
            loss = dino_loss(student(crops), teacher_GNK, centre_K)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                centre_K.lerp_(teacher_GNK.mean((0, 1)), 1 - CENTRE_MOMENTUM)
                momentum = 1 - (1 - TEACHER_MOMENTUM) * (1 + math.cos(math.pi * step / steps)) / 2
                for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.lerp_(its, 1 - momentum)
            print(f"step {step} of {steps}  loss {loss.item():.4f}")
    return teacher


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)  # paper: 1024
    parser.add_argument("--size", type=int, default=32, help="side of a large crop in pixels")
    parser.add_argument("--local-crops", type=int, default=4, help="small crops of each image")
    parser.add_argument("--prototypes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file for the teacher's backbone (safetensors)")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    teacher = train(**arguments)
    if out:
        from safetensors.torch import save_file

        save_file(teacher.backbone.state_dict(), out)


if __name__ == "__main__":
    main()
