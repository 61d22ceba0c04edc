"""Models that come with inloop, and models that a study names."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernels.random import Key, uniform
from simulator._functions import FUNCTION, import_function
from simulator._isolation import private_generator


def digits_cnn(*, seed: int = 0, width: int = 16) -> nn.Sequential:
    """Build a small convolutional network for `digits`: three convolutions with batch norm, one fully connected layer.

    Parameters
    ----------
    seed
        Of the initial weights; torch's global generator is neither read nor changed.
    width
        Channels of the first convolution; the others have twice as many.

    Returns
    -------
    torch.nn.Sequential
        (N, 1, 8, 8) -> (N, 10) logits, with the parts `features` and `head`.

    Raises
    ------
    ValueError
        When `width` is not at least 1.

    Examples
    --------
    >>> model = digits_cnn(seed=0)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    _at_least_one("width", width)
    with torch.device("meta"):
        model = nn.Sequential(
            OrderedDict(
                features=nn.Sequential(
                    *_convolution(1, width),
                    *_convolution(width, 2 * width),
                    nn.MaxPool2d(2),
                    *_convolution(2 * width, 2 * width),
                    nn.MaxPool2d(2),
                    nn.Flatten(),
                ),
                head=nn.Linear(2 * width * 4, 10),
            )
        )
    return _initialize(model, seed)


def digits_mlp(*, seed: int = 0, hidden: int = 128) -> nn.Sequential:
    """Build a fully connected network for `digits` with two hidden layers.

    Parameters
    ----------
    seed
        Of the initial weights; torch's global generator is neither read nor changed.
    hidden
        Neurons of each hidden layer.

    Returns
    -------
    torch.nn.Sequential
        (N, 1, 8, 8) -> (N, 10) logits, with the parts `features` and `head`.

    Raises
    ------
    ValueError
        When `hidden` is not at least 1.

    Examples
    --------
    >>> digits_mlp(hidden=32).head
    Linear(in_features=32, out_features=10, bias=True)
    """
    _at_least_one("hidden", hidden)
    with torch.device("meta"):
        features = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        model = nn.Sequential(OrderedDict(features=features, head=nn.Linear(hidden, 10)))
    return _initialize(model, seed)


def load_model(spec: str, arguments: Mapping[str, Any] | None = None, *, seed: int = 0, folder: Path | None = None) -> nn.Module:
    """Build the model that a study names.

    Parameters
    ----------
    spec
        The name of a built-in model, or ``"package.module:function"``, called for an ``nn.Module``.
    arguments
        Passed to the function by name.
    seed
        Passed as `seed` to a function that has such an argument. While it runs, torch's global generators are seeded from it too, and
        afterwards hold what they held before.
    folder
        Where the module is looked for first: the study's own folder. None: the working directory.

    Returns
    -------
    torch.nn.Module
        The model, as the function made it.

    Raises
    ------
    ValueError
        When there is no such model, the arguments are not its own, or what comes back is not a module.

    Examples
    --------
    >>> load_model("digits_mlp", {"hidden": 32}).features[1]
    Linear(in_features=64, out_features=32, bias=True)
    """
    if spec in BUILT_IN:
        function: Callable[..., Any] = BUILT_IN[spec]
    elif FUNCTION.fullmatch(spec):
        function = import_function(spec, argument="model", folder=folder)
    else:
        near = get_close_matches(spec, BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name one of these"
        raise ValueError(f'Argument `model` must be one of {", ".join(BUILT_IN)} or "package.module:function", but got {spec!r}; {hint}')
    signature = inspect.signature(function)
    options = ({"seed": seed} if "seed" in signature.parameters else {}) | dict(arguments or {})
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(
            f"Argument `model` must have the arguments of {spec!r} ({', '.join(signature.parameters) or 'none'}), but {error}; correct them"
        ) from error
    with private_generator(Key.of(seed=seed, purpose="model")):
        model = function(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"Argument `model` must name a function that returns an nn.Module, but {spec!r} returned {type(model).__name__}; return one"
        )
    return model


BUILT_IN: dict[str, Callable[..., nn.Sequential]] = {"digits_cnn": digits_cnn, "digits_mlp": digits_mlp}


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _initialize(model: nn.Sequential, seed: int) -> nn.Sequential:
    """Give storage to a model built on the meta device, and draw its weights: uniform, of variance 2 / fan-in (He et al. 2015, eq. 10)."""
    model.to_empty(device="cpu")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            draw = uniform(Key.of(seed=seed, layer=name, purpose="initial weights"), tuple(layer.weight.shape))
            with torch.no_grad():
                layer.weight.copy_((2 * draw - 1) * sqrt(6 / fan_in))
                if layer.bias is not None:
                    layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return model


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"Argument `{name}` must be at least 1, but got {value}; use the default or more")
