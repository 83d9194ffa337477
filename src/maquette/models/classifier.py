"""The base of picture classifiers: features, a linear head for each label factor, and the loss.

A picture of the world has several labels (a colour, a shape, a relation): each is read by a head of
its own from the same features. Heads start at 0, as when a ViT is fine-tuned (Dosovitskiy et al. 2021,
section 3.2), so that the first loss is log(classes) of every factor.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import UserError
from maquette.models.base import Loss, PictureBatch, PictureModel
from maquette.models.classifier_config import ClassifierConfig
from maquette.nn.linear import Linear
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Role


class Classifier(PictureModel):
    """Pictures in, the logits of every label factor out. An architecture says what `features` are."""

    task_parameters: ClassVar[tuple[str, ...]] = ("heads.*",)
    config: ClassifierConfig
    heads: nn.ModuleDict

    def make_heads(self, width: int) -> nn.ModuleDict:
        """A head from features of that width to the classes of each factor."""
        c = self.config
        return nn.ModuleDict(
            {
                name: Linear(width, classes, bias=True, role=Role.OUTPUT, start=0.0)
                for name, classes in zip(c.head_names(), c.read_classes, strict=True)
            }
        )

    def features(self, pictures: Tensor) -> Tensor:
        """Features of the heads: (n, 3, height, width) in [-1, 1] -> (n, d)."""
        raise NotImplementedError

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits of each factor, (n, classes of it) in fp32."""
        x = self.features(pictures)
        logits = []
        for head in self.heads.values():
            assert isinstance(head, Linear) and head.bias is not None
            product = head.product(x).float()
            logits.append(scaled(product, self.scaling.output_multiplier) + head.bias.float())
        return logits

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """Cross-entropy in nats, summed over the factors and the pictures.

        A negative label is not counted. Raises UserError for pictures without those labels.
        """
        value = torch.zeros((), device=batch.pictures.device)
        total = value
        wanted = self.wanted(batch.labels)
        for logits, labels in zip(self(batch.pictures), wanted.unbind(1), strict=True):
            entropy = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
            value = value + entropy
            total = total + entropy
            if z_loss:
                total = total + z_loss * logits.logsumexp(-1).square().sum()
        return Loss(total, value.detach(), len(batch.pictures))

    def wanted(self, labels: Tensor | None) -> Tensor:
        """The labels (n, heads) that the heads read, of the data's (n, factors).

        Raises UserError where there are not as many factors as classes, or more values than those. Values
        on a GPU are not read, as that would wait for it: a run's classes are those of its corpus.
        """
        c = self.config
        factors = 0 if labels is None else labels.shape[1]
        if labels is None or factors != len(c.classes):
            raise UserError(
                f"a classifier of {len(c.classes)} label factors cannot use pictures with {factors}: "
                f"set model.classes to those of the data, and model.labels to what is learned"
            )
        most = labels.amax(0).tolist() if labels.is_cpu else []
        if any(value >= classes for value, classes in zip(most, c.classes, strict=False)):
            raise UserError(
                f"labels go up to {most}, model.classes is {list(c.classes)}: "
                f"set model.classes to those of the data"
            )
        return torch.stack([labels[:, i] for i in c.read], dim=1)  # a list as index would be copied
