"""Reading data sets: folders of arrays or of images, and Hugging Face data sets."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Inputs (N, ...) and targets (N, ...)."""

PAIR_NAMES = (("inputs", "targets"), ("images", "labels"), ("x", "y"))
SPLIT_NAMES = ("x_train", "y_train", "x_test", "y_test")
IMAGE_SUFFIXES = (".png", ".npy")
LAYOUT = (
    "give it train.npz and test.npz (arrays `inputs` and `targets`), train.pt and test.pt (the same as tensors), "
    "or a folder of .png or .npy files for each class"
)


def as_tensors(inputs: object, targets: object, *, name: str) -> Pair:
    """Check and convert one part of a data set.

    Parameters
    ----------
    inputs
        Array or tensor (N, ...). Bytes are taken for images and become float32 in 0..1; float64 becomes float32.
    targets
        Array or tensor (N, ...). Integers become int64, floats float32.
    name
        What the pair is called in an error.

    Returns
    -------
    tuple of Tensor
        Inputs and targets.

    Raises
    ------
    ValueError
        When the two differ in length, are empty, or hold something that is not finite.

    Examples
    --------
    >>> as_tensors(np.full((2, 1), 255, dtype=np.uint8), [0, 1], name="train")
    (tensor([[1.],
            [1.]]), tensor([0, 1]))
    """
    try:
        x, y = torch.as_tensor(inputs), torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Argument `data` must hold arrays of numbers, but {name} does not: {_line(error)}; convert it") from error
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"Argument `data` must have as many inputs as targets and at least one of each, but {name} has inputs of shape "
            f"{tuple(x.shape)} and targets of shape {tuple(y.shape)}; check the file or function"
        )
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float() if x.is_floating_point() else x
    y = y.float() if y.is_floating_point() else y.long()
    for part, tensor in (("inputs", x), ("targets", y)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"Argument `data` must hold finite numbers, but the {part} of {name} have NaN or infinity in them; remove those samples"
            )
    return x, y


def read_folder(path: Path) -> tuple[Pair, Pair | None]:
    """Read a data set from a folder or from one file.

    Parameters
    ----------
    path
        Folder or file. Of a folder: ``train`` and ``test``, each an .npz file, a .pt file or a folder with a folder of images
        a class; or one file; or a folder of images a class.

    Returns
    -------
    tuple
        The training pair, and the test pair or None when the folder does not tell them apart.

    Raises
    ------
    ValueError
        When the folder is laid out in another way, or a file cannot be read.
    """
    if path.is_file():
        return _read_file(path)
    train, test = _part(path, "train"), _part(path, "test")
    if train is None:
        files = sorted(file for suffix in ("*.npz", "*.pt") for file in path.glob(suffix))
        if len(files) == 1 and test is None:
            return _read_file(files[0])
        if files or test is not None or not _class_folders(path):
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
            raise ValueError(f"Argument `data` must be a folder of a known layout, but got {str(path)!r} with {found} in it; {LAYOUT}")
        return _read_images(path, [folder.name for folder in _class_folders(path)]), None
    named = next((part for part in (train, test) if part is not None and part.is_dir()), None)
    classes = [folder.name for folder in _class_folders(named)] if named is not None else []
    pairs = [_read_images(part, classes) if part.is_dir() else _read_file(part)[0] for part in (train, test) if part is not None]
    return pairs[0], pairs[1] if test is not None else None


def read_hugging_face(name: str, arguments: Mapping[str, Any]) -> tuple[Pair, Pair | None]:
    """Read a data set of the Hugging Face hub, or its local cache, whole into memory.

    Parameters
    ----------
    name
        Name on the hub, as in ``ylecun/mnist``.
    arguments
        ``inputs`` and ``targets`` name columns (default: the first image column and the first class-label column), ``test`` names
        the split to test on (default ``test``, else ``validation``); everything else goes to ``datasets.load_dataset``.

    Returns
    -------
    tuple
        The training pair, and the test pair or None when there is only one split.

    Raises
    ------
    ValueError
        When the extra is not installed, the data set is not there or not in reach, or its columns are not known.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"Argument `data` must be a data set that can be loaded, but 'hf:{name}' needs the package `datasets`, which is not installed; "
            "run pip install 'inloop[data]'"
        ) from error
    options = dict(arguments)
    columns = [options.pop(which, None) for which in ("inputs", "targets")]
    test_name = options.pop("test", None)
    try:
        loaded = datasets.load_dataset(name, **options)
    except Exception as error:  # the package raises whatever its network and file layers raise
        raise ValueError(
            f"Argument `data` must be a data set in reach, but 'hf:{name}' could not be loaded: {_line(error)}; "
            "check the name and the network, or give a local folder"
        ) from error
    splits = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
    if "train" not in splits:
        raise ValueError(f"Argument `data` must have a split called train, but 'hf:{name}' has {', '.join(splits)}; use another data set")
    if test_name is not None and test_name not in splits:
        raise ValueError(f"Argument `test` must be a split of 'hf:{name}' ({', '.join(splits)}), but got {test_name!r}; name one of these")
    test_name = test_name or next((other for other in ("test", "validation") if other in splits), None)
    train = _columns(splits["train"], columns, f"hf:{name}")
    return train, None if test_name is None else _columns(splits[test_name], columns, f"hf:{name}")


def _columns(split: Any, columns: list[str | None], name: str) -> Pair:
    kinds = {column: type(feature).__name__ for column, feature in split.features.items()}
    chosen = []
    for which, wanted, column in zip(("inputs", "targets"), ("Image", "ClassLabel"), columns, strict=True):
        found = column or next((other for other, kind in kinds.items() if kind == wanted), None)
        if found not in kinds:
            raise ValueError(f"Argument `{which}` must be a column of {name!r} ({', '.join(kinds)}), but got {column!r}; name one of these")
        chosen.append(found)
    inputs = [_channels_first(np.asarray(value)) if kinds[chosen[0]] == "Image" else np.asarray(value) for value in split[chosen[0]]]
    return as_tensors(_stack(inputs, name), np.asarray(split[chosen[1]]), name=name)


def _part(path: Path, name: str) -> Path | None:
    found = [path / f"{name}{suffix}" for suffix in (".npz", ".pt", "") if (path / f"{name}{suffix}").exists()]
    if len(found) > 1:
        raise ValueError(
            f"Argument `data` must have one {name} set, but {str(path)!r} has {' and '.join(entry.name for entry in found)}; keep one"
        )
    return found[0] if found else None


def _class_folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _read_file(path: Path) -> tuple[Pair, Pair | None]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        elif path.suffix == ".pt":
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            arrays = dict(zip(PAIR_NAMES[0], loaded, strict=True)) if isinstance(loaded, tuple | list) else dict(loaded)
        else:
            raise ValueError(f"a file ending in {path.suffix!r} is not one of .npz and .pt")
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"Argument `data` must be readable without pickle, but {str(path)!r} is not: {_line(error)}; {LAYOUT}") from error
    for names in PAIR_NAMES:
        if set(names) <= arrays.keys():
            return as_tensors(arrays[names[0]], arrays[names[1]], name=str(path)), None
    if set(SPLIT_NAMES) <= arrays.keys():
        x_train, y_train, x_test, y_test = (arrays[name] for name in SPLIT_NAMES)
        return as_tensors(x_train, y_train, name=str(path)), as_tensors(x_test, y_test, name=str(path))
    raise ValueError(
        f"Argument `data` must have arrays `inputs` and `targets`, but {str(path)!r} has {', '.join(map(str, arrays)) or 'none'}; rename"
    )


def _read_images(path: Path, classes: list[str]) -> Pair:
    unknown = [folder.name for folder in _class_folders(path) if folder.name not in classes]
    if unknown:
        raise ValueError(
            f"Argument `data` must have the same classes in train and test, but {str(path)!r} has {unknown[0]!r} and the other has not; "
            "give both a folder of that name"
        )
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(file for file in (path / name).glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        images += [_read_image(file) for file in files]
        labels += [label] * len(files)
    if not images:
        raise ValueError(f"Argument `data` must have .png or .npy files in its class folders, but {str(path)!r} has none; {LAYOUT}")
    return as_tensors(_stack(images, str(path)), labels, name=str(path))


def _read_image(path: Path) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npy":
            return _channels_first(np.load(path, allow_pickle=False))
        from PIL import Image

        with Image.open(path) as image:
            deep = image.mode.startswith("I")  # 16 bits a pixel
            gray = image.mode in ("1", "L", "LA") or deep
            array = np.asarray(image if deep else image.convert("L" if gray else "RGB"))
            return _channels_first(array.astype(np.float32) / (65535 if deep else 255))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"Argument `data` must have images that can be read, but {str(path)!r} is not one: {_line(error)}; remove it"
        ) from error


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """(H, W) -> (1, H, W), and (H, W, 3) -> (3, H, W); anything else as it is."""
    if array.ndim == 2:
        return array[None]
    return np.moveaxis(array, -1, 0) if array.ndim == 3 and array.shape[-1] == 3 and array.shape[0] != 3 else array


def _stack(arrays: list[NDArray[Any]], name: str) -> NDArray[Any]:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"Argument `data` must have samples of one shape, but {name!r} has {shapes[0]} and {shapes[1]}; resize or crop them first"
        )
    return np.stack(arrays)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".;")
