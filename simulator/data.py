"""Data sets: the embedded digits, a user's own, and batches whose order is a function of a seed and an epoch."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from kernels.random import Key, bits
from simulator._functions import FUNCTION, import_function
from simulator._isolation import private_generator
from simulator._readers import Pair, as_tensors, read_folder, read_hugging_face

DIGITS_TEST = 360
"""Test images of `digits`, of 1797: one fifth."""
TEST_FRACTION = 0.2
"""Share of a data set that is held out when it does not say itself what to test on."""
TRAIN_BATCH, TEST_BATCH = 64, 256


class Batches:
    """Batches of a pair of tensors, in an order that depends on a seed and an epoch and on nothing else.

    Parameters
    ----------
    inputs
        (N, ...).
    targets
        (N, ...).
    batch_size
        Samples a batch; the last batch holds what is left.
    seed
        Seed of the order. None: the order of the tensors.

    Attributes
    ----------
    epoch
        Epoch of the next iteration. Each iteration moves it on by one, so a loop over epochs sees a new order in each.

    Raises
    ------
    ValueError
        When the tensors are empty or differ in length, or `batch_size` is not at least 1.

    Examples
    --------
    >>> data = Batches(torch.arange(5.0), torch.arange(5), batch_size=2)
    >>> [targets.tolist() for inputs, targets in data]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, *, seed: int | None = None) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(
                f"Argument `targets` must be as many as `inputs` and at least one, but got {len(targets)} for {len(inputs)} inputs; "
                "pass tensors of one length"
            )
        if batch_size < 1:
            raise ValueError(f"Argument `batch_size` must be at least 1, but got {batch_size}; use 64 or so")
        self.inputs, self.targets, self.batch_size, self.seed = inputs, targets, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Parameters
        ----------
        epoch
            From 0.

        Examples
        --------
        >>> data = Batches(torch.arange(8.0), torch.arange(8), batch_size=8, seed=0)
        >>> first = next(iter(data))[1]
        >>> data.set_epoch(0)
        >>> torch.equal(first, next(iter(data))[1])
        True
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return ceil(len(self.inputs) / self.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch)

    def __repr__(self) -> str:
        return f"Batches({len(self.inputs)} samples of {tuple(self.inputs.shape[1:])}, batch_size={self.batch_size}, seed={self.seed})"

    def _batches(self, epoch: int) -> Iterator[Pair]:
        if self.seed is None:
            yield from zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True)
            return
        order = torch.from_numpy(_permutation(len(self.inputs), Key.of(seed=self.seed, purpose="batches", read=epoch)))
        for rows in order.to(self.inputs.device).split(self.batch_size):
            yield self.inputs[rows], self.targets[rows.to(self.targets.device)]


@dataclass(frozen=True)
class DataSplit:
    """A data set in two parts.

    Attributes
    ----------
    train
        Tensors, or batches ``(inputs, targets)`` that can be iterated over again and again.
    test
        The same, never trained on.
    classes
        Number of classes; None when targets are not class numbers, or are in batches of the user's own.
    name
        What a report calls it.
    """

    train: TensorDataset | Iterable[Pair]
    test: TensorDataset | Iterable[Pair]
    classes: int | None
    name: str

    def train_batches(self, batch_size: int = TRAIN_BATCH, *, seed: int | None = 0) -> Iterable[Pair]:
        """Batches to train on.

        Parameters
        ----------
        batch_size
            Samples a batch. Batches of the user's own stay as they are.
        seed
            Seed of the order, new in each epoch. None: the order of the data.

        Returns
        -------
        Iterable
            `Batches`, or the user's own.

        Examples
        --------
        >>> len(digits().train_batches(100))
        15
        """
        return _batches(self.train, batch_size, seed)

    def test_batches(self, batch_size: int = TEST_BATCH) -> Iterable[Pair]:
        """Batches to test on, in the order of the data.

        Parameters
        ----------
        batch_size
            Samples a batch. Batches of the user's own stay as they are.

        Returns
        -------
        Iterable
            `Batches`, or the user's own.

        Examples
        --------
        >>> [len(targets) for inputs, targets in digits().test_batches()]
        [256, 104]
        """
        return _batches(self.test, batch_size, None)


def digits() -> DataSplit:
    """Handwritten digits, 8 x 8 pixels: the data set that comes with scikit-learn.

    1797 images written by 13 people, in 17 gray levels, here in 0..1. Every call gives the same stratified split.

    Returns
    -------
    DataSplit
        Inputs (N, 1, 8, 8) float32, targets (N,) int64; 1437 to train on, 360 to test on.

    References
    ----------
    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998),
    doi:10.24432/C50P49; the part of it that scikit-learn ships is its test set.

    Examples
    --------
    >>> images, labels = digits().test.tensors
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([360, 1, 8, 8]), [36, 37, 35, 37, 36, 36, 36, 36, 35, 36])
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    inputs = torch.from_numpy(raw.images.astype(np.float32) / 16)[:, None]
    train, test = _split((inputs, torch.from_numpy(raw.target.astype(np.int64))), DIGITS_TEST, seed=0)
    return DataSplit(TensorDataset(*train), TensorDataset(*test), 10, "digits")


def load_data(spec: str, arguments: Mapping[str, Any] | None = None, *, seed: int = 0, folder: Path | None = None) -> DataSplit:
    """Load the data set that a study names.

    Parameters
    ----------
    spec
        ``"digits"``; a folder or a file (.npz, .pt) of the user's own; ``"hf:NAME"``, a data set of the Hugging Face hub (extra
        `data`); or ``"package.module:function"``, called for the pair of training and test data, each a pair of arrays, a torch
        data set or an iterable of batches.
    arguments
        Passed to the function, or to ``datasets.load_dataset`` with `inputs`, `targets` and `test` naming columns and split.
    seed
        Of the split when the data set has no test part, and of torch's generators while the user's function runs.
    folder
        What relative names are relative to: the study's own folder. None: the working directory.

    Returns
    -------
    DataSplit
        Training and test data.

    Raises
    ------
    ValueError
        When there is no such data set or it cannot be read; one line that says what to do.

    Examples
    --------
    >>> load_data("digits").classes
    10
    """
    options = dict(arguments or {})
    if spec in BUILT_IN:
        if options:
            raise ValueError(f"Argument `data` must have no arguments for {spec!r}, but got {', '.join(options)}; remove them")
        return BUILT_IN[spec]()
    if spec.startswith("hf:"):
        return _from_pairs(*read_hugging_face(spec.removeprefix("hf:"), options), seed, spec)
    path = (folder or Path()) / Path(spec).expanduser()
    if path.exists():
        if options:
            raise ValueError(f"Argument `data` must have no arguments for a folder, but got {', '.join(options)}; remove them")
        return _from_pairs(*read_folder(path), seed, path.resolve().name)
    if FUNCTION.fullmatch(spec):
        return _from_function(spec, options, seed, folder)
    near = get_close_matches(spec, BUILT_IN, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is no {str(path.resolve())!r}; check the path"
    raise ValueError(f'Argument `data` must be "digits", a folder, "hf:NAME" or "package.module:function", but got {spec!r}; {hint}')


BUILT_IN = {"digits": digits}


def _from_pairs(train: Pair, test: Pair | None, seed: int, name: str) -> DataSplit:
    if test is None:
        count = len(train[0])
        if count < 2:
            raise ValueError(f"Argument `data` must have at least 2 samples to hold some out, but {name!r} has {count}; add more")
        train, test = _split(train, max(1, round(count * TEST_FRACTION)), seed)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"Argument `data` must have inputs of one shape, but {name!r} has {tuple(train[0].shape[1:])} to train on and "
            f"{tuple(test[0].shape[1:])} to test on; convert one of them"
        )
    return DataSplit(TensorDataset(*train), TensorDataset(*test), _classes(train[1], test[1]), name)


def _from_function(spec: str, arguments: dict[str, Any], seed: int, folder: Path | None) -> DataSplit:
    function = import_function(spec, argument="data", folder=folder)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"Argument `data` must have the arguments of {spec!r}, but got {arguments}: {error}; correct them") from error
    with private_generator(Key.of(seed=seed, purpose="data")):
        result = function(**arguments)
        if isinstance(result, DataSplit):
            return result
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise ValueError(
                f"Argument `data` must name a function that returns training and test data, but {spec!r} returned "
                f"{type(result).__name__}; return (train, test)"
            )
        train, test = (_user_part(part, f"{spec!r} ({which})") for part, which in zip(result, ("train", "test"), strict=True))
    tensors = [part.tensors[1] for part in (train, test) if isinstance(part, TensorDataset)]
    return DataSplit(train, test, _classes(*tensors) if len(tensors) == 2 else None, spec.partition(":")[2])


def _user_part(part: Any, name: str) -> TensorDataset | Iterable[Pair]:
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(array, Tensor | np.ndarray) for array in part):
        return TensorDataset(*as_tensors(*part, name=name))
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        return TensorDataset(*as_tensors(*part.tensors, name=name))
    if isinstance(part, Dataset) and hasattr(part, "__len__"):
        samples = [part[index] for index in range(len(part))]
        inputs, targets = ([torch.as_tensor(sample[index]) for sample in samples] for index in (0, 1))
        return TensorDataset(*as_tensors(torch.stack(inputs), torch.stack(targets), name=name))
    if not hasattr(part, "__iter__") or iter(part) is part:
        raise ValueError(
            f"Argument `data` must give a pair of arrays or batches that can be iterated over again, but {name} is a "
            f"{type(part).__name__}; return a list, a DataLoader or the arrays"
        )
    return part  # type: ignore[no-any-return]


def _classes(*targets: Tensor) -> int | None:
    """Count classes: None unless all targets are integers from 0 on."""
    if any(part.is_floating_point() or int(part.min()) < 0 for part in targets):
        return None
    return max(int(part.max()) for part in targets) + 1


def _batches(part: TensorDataset | Iterable[Pair], batch_size: int, seed: int | None) -> Iterable[Pair]:
    if not isinstance(part, TensorDataset):
        return part
    inputs, targets = part.tensors
    return Batches(inputs, targets, batch_size, seed=seed)


def _split(pair: Pair, test: int, seed: int) -> tuple[Pair, Pair]:
    """Hold out `test` samples; of each class its share, when targets are class numbers."""
    inputs, targets = pair
    labels = targets.numpy() if targets.ndim == 1 and not targets.is_floating_point() else np.zeros(len(inputs), np.int64)
    values, counts = np.unique(labels, return_counts=True)
    shares = counts * test / len(labels)
    quotas = shares.astype(np.int64)
    largest = np.argsort(quotas - shares, kind="stable")[: test - int(quotas.sum())]
    quotas[largest] += 1
    order = _permutation(len(labels), Key.of(seed=seed, purpose="split"))
    held = np.sort(np.concatenate([order[labels[order] == value][:quota] for value, quota in zip(values, quotas, strict=True)]))
    kept = np.setdiff1d(np.arange(len(labels)), held)
    (train_rows, test_rows) = (torch.from_numpy(rows) for rows in (kept, held))
    return (inputs[train_rows], targets[train_rows]), (inputs[test_rows], targets[test_rows])


def _permutation(count: int, key: Key) -> NDArray[np.int64]:
    """Draw a permutation, the same on every platform and for every version of numpy."""
    return np.argsort(bits(key, count), kind="stable").astype(np.int64)
