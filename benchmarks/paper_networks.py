"""Networks of the papers on write-verify and random cells, in their sizes and narrower, and data to put through them."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulator.data import DataSplit, digits, load_data

FOLDER = "INLOOP_DATA"
"""Environment variable that names a folder with data sets that are not embedded, as `load_data` reads them."""


def digits_mlp() -> nn.Sequential:
    """Return the network 64-64-32-10 for 8 x 8 pixels.

    Examples
    --------
    >>> weights(digits_mlp())
    6464
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def lenet() -> nn.Sequential:
    """Return LeNet for 28 x 28 pixels: convolutions 3 x 3 to 6 and 16 channels, fully connected 784-120-84-10.

    Examples
    --------
    >>> weights(lenet())
    105918
    """
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def convnet(share: int = 1) -> nn.Sequential:
    """Return ConvNet for 32 x 32 pixels in color: convolutions 64-64-128-128-256-256, fully connected 4096-1024-1024-10.

    Parameters
    ----------
    share
        Widths are divided by it.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     weights(convnet())
    6397632
    """
    layers: list[nn.Module] = []
    inputs = 3
    for place, outputs in enumerate((64, 64, 128, 128, 256, 256)):
        layers += [nn.Conv2d(inputs, outputs // share, 3, padding=1), nn.ReLU()]
        if place % 2:
            layers.append(nn.MaxPool2d(2))
        inputs = outputs // share
    wide = 1024 // share
    layers += [nn.Flatten(), nn.Linear(4096 // share, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 10)]
    return nn.Sequential(*layers)


def random_classifier() -> nn.Sequential:
    """Return the classifier of 28 x 28 pixels that is pruned on random cells: pooled 2 x 2, convolutions to 64 and 16, 400-128-10.

    Examples
    --------
    >>> weights(random_classifier())
    62272
    """
    return nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(1, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 16, 3, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 10, bias=False),
    )  # fmt: skip


class SmallUNet(nn.Module):
    """An encoder and a decoder with skips, pixel by pixel scores of two classes.

    Parameters
    ----------
    base
        Channels of the first level; each level down has twice as many.

    Examples
    --------
    >>> SmallUNet(4)(torch.rand(2, 1, 32, 32)).shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(self, base: int = 8) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

        self.down = nn.ModuleList([block(1, base), block(base, 2 * base)])
        self.bottom = block(2 * base, 4 * base)
        self.up = nn.ModuleList([block(6 * base, 2 * base), block(3 * base, base)])
        self.head = nn.Conv2d(base, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (batch, 2, height, width) of images (batch, 1, height, width)."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat((skip, x), 1))
        scores: Tensor = self.head(x)
        return scores


def weights(model: nn.Module) -> int:
    """Return the elements of all parameters of two dimensions and more: what lies on an array.

    Examples
    --------
    >>> weights(nn.Linear(3, 2))
    6
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def enlarged_digits(size: int, channels: int = 1) -> DataSplit:
    """Return the embedded digits drawn larger: the stand-in for MNIST and CIFAR-10 where these are not present.

    Examples
    --------
    >>> enlarged_digits(28).test.tensors[0].shape
    torch.Size([360, 1, 28, 28])
    """
    from torch.utils.data import TensorDataset

    found = digits()
    parts = []
    for part in (found.train, found.test):
        assert isinstance(part, TensorDataset)
        images, labels = part.tensors
        larger = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        parts.append(TensorDataset(larger.repeat(1, channels, 1, 1), labels))
    return DataSplit(parts[0], parts[1], 10, f"digits enlarged to {size} x {size}")


def present(name: str, stand_in: DataSplit) -> DataSplit:
    """Return a data set from the folder that INLOOP_DATA names, or the stand-in.

    Examples
    --------
    >>> present("no_such_data", enlarged_digits(8)).name
    'digits enlarged to 8 x 8'
    """
    folder = os.environ.get(FOLDER)
    path = None if folder is None else Path(folder) / name
    return load_data(str(path)) if path is not None and path.exists() else stand_in
