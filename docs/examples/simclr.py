"""SimCLR (Chen et al., ICML 2020) in one file: barlow's loader and plain torch.

    python docs/examples/simclr.py IMAGES --steps 500

IMAGES is whatever the loader reads: a folder, a tar, shards. Two views of each image are pulled together in
the embedding and pushed away from the views of all other images of the batch (NT-Xent, equation 1). The
defaults are those of the paper's CIFAR-10 runs (appendix B.9: half the jitter's strength, no blur,
temperature 0.5, here a smaller batch), with Adam instead of LARS so that a laptop sees something happen.
"""

from __future__ import annotations

import argparse
from itertools import chain, islice, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from barlow.config import CIFAR10_MEAN, CIFAR10_STD
from barlow.data import Loader, to_float, views


def nt_xent(z1_ND: Tensor, z2_ND: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper, the mean over all 2N views: cross-entropy of finding one's own twin.

    `z1_ND` and `z2_ND` are the embeddings of the two views, row i of both from image i.
    """
    z_MD = F.normalize(torch.cat([z1_ND, z2_ND]), dim=1)
    similarity_MM = z_MD @ z_MD.T / temperature
    similarity_MM.fill_diagonal_(-torch.inf)  # a view is no candidate for its own twin
    twin_M = torch.arange(len(z_MD), device=z_MD.device).roll(len(z1_ND))
    return F.cross_entropy(similarity_MM, twin_M)


class SimCLR(nn.Module):
    """A ResNet-18 for small images and the projection head (section 3), thrown away afterwards."""

    def __init__(self, dimensions: int = 128) -> None:
        super().__init__()
        self.backbone = resnet18()
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.backbone.maxpool = nn.Identity()  # type: ignore[assignment]
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.head = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dimensions)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, dimensions] of images [N, 3, H, W]."""
        return self.head(self.backbone(images))


def train(images: str, steps: int, batch_size: int, size: int, temperature: float, seed: int) -> SimCLR:
    """The model after so many steps."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = SimCLR().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    recipe = views.simclr(size, strength=0.5, blur=False)
    print(views.table(recipe))

    with Loader(images, views=recipe, batch_size=batch_size, seed=seed) as loader:
        epochs = chain.from_iterable(repeat(loader))  # each pass over the loader is one epoch
        for step, batch in enumerate(islice(epochs, steps), 1):
            x1, x2 = to_float(batch.views, CIFAR10_MEAN, CIFAR10_STD, device=device)
            # One pass for both views, so that batch norm sees them together, as in the authors' code.
            z1_ND, z2_ND = model(torch.cat([x1, x2])).chunk(2)
            loss = nt_xent(z1_ND, z2_ND, temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            print(f"step {step} of {steps}  loss {loss.item():.4f}")
    return model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=32, help="side of a view in pixels")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file for the backbone's weights (safetensors)")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    model = train(**arguments)
    if out:
        from safetensors.torch import save_file

        save_file(model.backbone.state_dict(), out)


if __name__ == "__main__":
    main()
