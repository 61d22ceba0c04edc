"""The data sets of the quantum benchmarks: two classes of scikit-learn's digits or of its breast cancer data, as a few angles."""

import math

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import Tensor

Split = tuple[Tensor, Tensor, Tensor, Tensor]
"""Inputs and classes to train on, inputs and classes to test on."""

DATA_SETS = ("digits 3 and 8, pooled to 2 x 2", "digits 3 and 6, PCA to 4", "digits 4 and 9, pooled to 2 x 2", "breast cancer, PCA to 4")


def load(name: str, seed: int, train: int = 200, test: int = 100) -> Split:
    """Return a data set with its four features scaled to angles between -pi / 2 and pi / 2 by what the training half spans.

    Examples
    --------
    >>> load("digits 3 and 6, PCA to 4", seed=0)[0].shape
    torch.Size([200, 4])
    """
    if name.startswith("digits"):
        images, labels = load_digits(return_X_y=True)
        first, second = int(name[7]), int(name[13])
        chosen = (labels == first) | (labels == second)
        features, classes = images[chosen], (labels[chosen] == second).astype(int)
        if "pooled" in name:
            features = features.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    else:
        features, classes = load_breast_cancer(return_X_y=True)
        features = (features - features.mean(0)) / features.std(0)
    x_train, x_test, y_train, y_test = train_test_split(
        features, classes, train_size=min(train, len(classes) - test), test_size=test, random_state=seed, stratify=classes
    )
    if "PCA" in name:
        reduction = PCA(4, random_state=seed).fit(x_train)
        x_train, x_test = reduction.transform(x_train), reduction.transform(x_test)
    low, high = np.percentile(x_train, [2, 98], axis=0)
    scaled = [np.clip((part - low) / (high - low), 0, 1) * math.pi - math.pi / 2 for part in (x_train, x_test)]
    return (
        torch.tensor(scaled[0], dtype=torch.float32),
        torch.tensor(y_train),
        torch.tensor(scaled[1], dtype=torch.float32),
        torch.tensor(y_test),
    )
