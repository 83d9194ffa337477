"""The residual CNN: its shapes, its loss, its augmentation, and that it learns."""

import math

import pytest
import torch
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.models.base import PictureBatch
from maquette.models.cnn import blur
from maquette.models.cnn_config import CNNConfig
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Parametrisation

SMALL = {
    "image_size": 16,
    "width": 8,
    "depth": 1,
    "classes": (3, 2),
    "parametrisation": Parametrisation(base_width=8, base_depth=1),
}


def drawn(n: int = 6, image_size: int = 16) -> torch.Tensor:
    return (
        torch.rand(n, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )


def labelled(n: int = 6) -> PictureBatch:
    labels = torch.tensor([[i % 3, i % 2] for i in range(n)])
    return PictureBatch(drawn(n), labels=labels)


def test_logits_features_and_the_first_loss():
    """Heads start at 0: the first loss is the log of the classes, summed over factors and pictures."""
    model = CNNConfig(**SMALL).build().initialise(0)
    logits = model(drawn())
    assert [tuple(x.shape) for x in logits] == [(6, 3), (6, 2)]
    assert model.features(drawn()).shape == (6, 32)
    loss = model.loss(labelled())
    assert loss.count == 6
    assert float(loss.value) == pytest.approx(6 * (math.log(3) + math.log(2)), rel=1e-6)
    assert sum(p.tensor.numel() for p in declared(model)) == CNNConfig(**SMALL).parameters()


def test_the_loss_is_the_cross_entropy_of_the_chosen_factors():
    config = CNNConfig(**(SMALL | {"labels": (1,)}))
    model, batch = config.build().initialise(0), labelled()
    with torch.no_grad():
        model.heads["1"].weight.normal_()
    expected = F.cross_entropy(model(batch.pictures)[0], batch.labels[:, 1], reduction="sum")
    assert float(model.loss(batch).value) == pytest.approx(expected.item(), rel=1e-6)
    batch.labels[0, 1] = -1  # not counted
    rest = F.cross_entropy(model(batch.pictures)[0][1:], batch.labels[1:, 1], reduction="sum")
    assert float(model.loss(batch).value) == pytest.approx(rest.item(), rel=1e-6)


def test_wrong_labels_are_refused():
    model = CNNConfig(**SMALL).build().initialise(0)
    with pytest.raises(UserError, match="2 label factors.*with 0"):
        model.loss(PictureBatch(drawn()))
    with pytest.raises(UserError, match="with 5"):
        model.loss(PictureBatch(drawn(), labels=torch.zeros(6, 5, dtype=torch.int64)))
    with pytest.raises(UserError, match="go up to"):
        model.loss(PictureBatch(drawn(), labels=torch.full((6, 2), 3)))
    for wrong in (
        {"classes": (1,)},
        {"width": 12},
        {"labels": (2,)},
        {"task": "A b"},
        {"blur": -1},
    ):
        with pytest.raises(WrongUse):
            CNNConfig(**(SMALL | wrong))


def test_features_do_not_depend_on_the_batch_and_augmentation_is_of_training_alone():
    model = CNNConfig(**(SMALL | {"noise": 0.3, "blur": 1.5})).build().initialise(0)
    model.eval()
    together, alone = model.features(drawn()), model.features(drawn()[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    model.train()
    torch.manual_seed(0)
    first = model.augment(drawn())
    torch.manual_seed(0)
    assert torch.equal(first, model.augment(drawn()))
    assert not torch.equal(first, drawn())


def test_blur_is_a_gaussian_of_each_pictures_own_width():
    """A single bright pixel spreads to the normal density; a deviation of 0 leaves a picture alone."""
    point = torch.zeros(2, 3, 21, 21)
    point[:, :, 10, 10] = 1.0
    out = blur(point, torch.tensor([0.0, 1.5]))
    assert torch.allclose(out[0], point[0])
    at = torch.arange(-5, 6).float()
    density = torch.exp(-0.5 * (at / 1.5) ** 2)
    density /= density.sum()
    assert torch.allclose(out[1, 0, 5:16, 5:16], torch.outer(density, density), atol=1e-4)
    assert torch.allclose(blur(torch.ones(1, 3, 8, 8), torch.tensor([2.0])), torch.ones(1, 3, 8, 8))


def test_it_learns_which_side_is_bright():
    """Mean pooling alone could not tell left from right: the borders of the convolutions do."""
    torch.manual_seed(0)
    model = CNNConfig(**(SMALL | {"classes": (2,)})).build().initialise(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        side = torch.randint(0, 2, (32, 1))
        pictures = 0.3 * torch.randn(32, 3, 16, 16)
        pictures[:, :, :, :8] += 1 - 2 * side[:, :, None, None]
        loss = model.loss(PictureBatch(pictures, labels=side))
        optimiser.zero_grad()
        (loss.total / loss.count).backward()
        optimiser.step()
    assert float(loss.value) / 32 < 0.2
