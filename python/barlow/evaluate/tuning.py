"""Here: the protocols that train by a published recipe, as entries of the table: semi-supervised,
fine-tuning, transfer by a linear classifier.

Not here: the recipes' numbers (recipes.py), the training (classifier.py), the table (protocols.py).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

from barlow.config import Config
from barlow.distributed import world_size
from barlow.evaluate import accuracy, labelled, recipes
from barlow.evaluate.classifier import check_shares, left_out, train_classifier
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.partition import Partition, Parts
from barlow.evaluate.recipes import Recipe
from barlow.model.precision import training_dtype

_BENCHMARKS = {"places205": "Places-205", "inat18": "iNaturalist-18"}
"""Whose images a protocol is named after, as `benchmarks.Lists.title` has them."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """One protocol by its name in `recipes.RECIPES`; what the table of protocols wants of it."""

    name: str

    def run(self, job: Job, row: Row, seed: int) -> Json:
        """`top1`, `top5`, `best_top1` in percent of the test images, `best_epoch`, `train_loss`, and on how
        many labels. `seed` draws the labelled images, too, where no list names them."""
        assert row.backbone is not None
        parts, recipe = self.labelled(job.labelled, job.config, seed), self.recipe(job.config)
        with job.talk.stage(f"{row.name}: {self.name}, epochs") as progress:
            result, _ = train_classifier(
                row.backbone,
                parts,
                recipe,
                data=job.config.data,
                seed=seed,
                device=job.device,
                dtype=self._dtype(job, row, recipe),
                progress=progress,
                part=job.part(row, self.name, seed),
            )
        return {
            "top1": result.top1,
            "top5": result.top5,
            "best_top1": accuracy.rounded(result.best_top1),
            "best_epoch": result.best_epoch,
            "train_loss": round(result.train_loss, 4) if math.isfinite(result.train_loss) else None,
            "labelled_images": len(parts.train),
            "notes": self._notes(job.config, recipe, job.labelled, len(parts.train)),
        }

    def check(self, parts: Parts, config: Config) -> None:
        """`ValueError`, `OSError` for a list of images and for batches that can't be used."""
        if not isinstance(parts, Partition):
            return
        if self._list(config):
            self.labelled(parts, config, 0)
        check_shares(self.recipe(config).batch_size)

    def labelled(self, parts: Partition, config: Config, seed: int) -> Partition:
        """The training images whose labels the protocol may use."""
        share, path = recipes.LABELLED_SHARE.get(self.name), self._list(config)
        if share is None:
            return parts
        return labelled.listed(parts, Path(path)) if path else labelled.stratified(parts, share, seed)

    def recipe(self, config: Config) -> Recipe:
        """The recipe by these settings; one that has none of the source asked for keeps its default."""
        settings = config.evaluate
        return recipes.recipe_of(self.name, settings.recipe).adapted(
            epochs=settings.recipe_epochs,
            batch_size=settings.recipe_batch_size,
            rate_factor=settings.recipe_lr_factor,
            batch_norm=settings.recipe_batch_norm,
        )

    def settings(self, config: Config) -> Json:
        """For eval.json: the recipe, and where the labels come from."""
        chosen: Json = {"recipe": dataclasses.asdict(self.recipe(config))}
        size = config.data.image_size
        chosen["training_view"] = f"random resized crop to {size} px (bilinear), flip"
        share = recipes.LABELLED_SHARE.get(self.name)
        if share is not None:
            chosen["labels"] = self._list(config) or f"stratified: {share:.0%} of each class by the seed"
        return chosen

    def deviations(self, config: Config) -> list[str]:
        """From the published recipe of the source that was chosen."""
        ours = self.recipe(config)
        theirs, told = recipes.recipe_of(self.name, config.evaluate.recipe), []
        for field, words in (
            ("epochs", "epochs"),
            ("batch_size", "images per step"),
            ("lr_backbone", "learning rate of the backbone"),
            ("lr_head", "learning rate of the classifier"),
        ):
            have, want = getattr(ours, field), getattr(theirs, field)
            if have != want:
                told.append(f"{self.name}: {words} {have:g} instead of {want:g}")
        if ours.lr_backbone > 0 and ours.batch_norm == "frozen":
            told.append(f"{self.name}: batch norm keeps its statistics instead of each batch's")
        elif ours.lr_backbone > 0 and ours.batch_norm == "synchronised" and world_size() > 1:
            told.append(
                f"{self.name}: batch norm averages over the batch, not over each process's part of it"
            )
        return told

    def _notes(self, config: Config, recipe: Recipe, parts: Partition, num_images: int) -> list[str]:
        """Where the images, of which `num_images` have labels, made the protocol another."""
        told = []
        benchmark = _BENCHMARKS.get(self.name, parts.benchmark)
        if benchmark != parts.benchmark:
            told.append(f"{self.name}: on these images, not on those of {benchmark}")
        share = recipes.LABELLED_SHARE.get(self.name)
        if share is not None and not self._list(config):
            told.append(f"{self.name}: labelled images drawn from each class, not those of SimCLR's list")
            if num_images > math.floor(share * len(parts.train) + 1e-9):
                whole = f"{share:.0%} of {len(parts.train)}"
                told.append(
                    f"{self.name}: {num_images} labelled images, more than {whole}, as each class has one"
                )
        if num_images < recipe.batch_size:
            told.append(f"{self.name}: {num_images} images a step, which is all, not {recipe.batch_size}")
        if short := left_out(num_images, recipe.batch_size):
            told.append(f"{self.name}: the last {short} images of each epoch, a short batch, are left out")
        if recipe.lr_backbone == 0:
            told.append(
                f"{self.name}: on the features that the backbone ends in, not on VISSL's 6 x 6 average pool "
                "of the last stage; the paper doesn't say which"
            )
        return told

    def _dtype(self, job: Job, row: Row, recipe: Recipe) -> torch.dtype:
        """That of the features, but for a backbone in training where it would give wrong gradients."""
        if recipe.lr_backbone == 0 or job.dtype != torch.bfloat16:
            return job.dtype
        asked = "bf16" if job.config.train.precision == "bf16" else "auto"
        return training_dtype(asked, job.device, job.config.model, row.size)

    def _list(self, config: Config) -> str:
        lists = {"semi-1": config.evaluate.semi_1_list, "semi-10": config.evaluate.semi_10_list}
        return lists.get(self.name, "")
