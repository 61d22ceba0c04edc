"""How much the loss bends in each parameter: the diagonal of its Hessian, by one pass of rules or by unbiased draws."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.random import Key, normal, uniform
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.capture import plain_kernels
from simulator.chip import Chip
from simulator.hardware import HardwareLayer
from simulator.metrics import IGNORED, pick
from simulator.progress import track
from simulator.squared_rules import SquaredRules

LossName = Literal["cross_entropy", "mse", "binary_cross_entropy"]
Method = Literal["second_derivative", "fisher", "hutchinson"]
SAMPLE_BLOCK = 32
"""Samples whose gradients are held at once by `fisher`."""


class Curvature(dict[str, Tensor]):
    """Second derivatives by the parameter's name, each of the parameter's shape.

    Attributes
    ----------
    report
        A row per parameter: ``parameter``, ``method`` by which it was found, and the ``reason`` where it is not the one asked for.

    Examples
    --------
    >>> Curvature({"weight": torch.ones(2)}, pd.DataFrame())["weight"].shape
    torch.Size([2])
    """

    def __init__(self, values: Mapping[str, Tensor], report: pd.DataFrame) -> None:
        super().__init__(values)
        self.report = report


def second_derivative(
    model: nn.Module,
    loader: Any,
    loss: LossName = "cross_entropy",
    *,
    method: Method = "second_derivative",
    fallback: Method = "fisher",
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool | None = None,
) -> Curvature:
    """Return the second derivative of the mean loss with respect to each parameter.

    ``second_derivative`` carries d2L/dz2 from the loss to the inputs in one backward pass by rules that drop cross terms: exact for the
    last linear layer, half to equal in the layers before it of small perceptrons, and a hundredth to a ten-thousandth of the truth in
    the first convolutions of deep networks (``inloop bench curvature_rules``), where ``fisher`` is the one to take. ``fisher`` squares
    the gradients of single samples with labels drawn from the model: unbiased for the diagonal of the Gauss-Newton matrix, which is that
    of the Hessian where all is piecewise linear but the loss.
    ``hutchinson`` averages v (H v) over random signs v: unbiased for the diagonal of the Hessian of any network, negative ones too.

    Parameters
    ----------
    model
        Any network, or a chip (whose master weights count). It is read in eval mode and not changed.
    loader
        A loader, data set, batches of (inputs, targets) or a pair of tensors. Targets are needed by ``hutchinson`` only.
    loss
        ``cross_entropy`` (classes along axis 1), ``mse`` or ``binary_cross_entropy`` (of logits), each the mean over all elements.
    method
        How to find it.
    fallback
        Method for parameters that the rules do not reach, because an operation after them has no rule.
    draws
        Draws a batch of ``fisher`` and ``hutchinson``.
    seed
        Seed of those draws.
    batch_size
        Batch size for a data set or a pair of tensors.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Curvature
        Parameter name to a tensor of its shape; ``.report`` says which parameter was found by which method.

    Raises
    ------
    ValueError
        If the data are empty, an argument is unknown or out of range, outputs do not fit the loss, or a second derivative is not finite.

    References
    ----------
    LeCun, Denker and Solla, "Optimal brain damage" (NIPS 1989); yan2022swim in the bibliography.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> curvature = second_derivative(model, (torch.rand(8, 2), torch.zeros(8, dtype=torch.long)))
    >>> curvature["2.weight"].shape, list(curvature.report["method"].unique())
    (torch.Size([2, 3]), ['second_derivative'])
    """
    _check_choice("loss", loss, get_args(LossName))
    _check_choice("method", method, get_args(Method))
    _check_choice("fallback", fallback, ("fisher", "hutchinson"))
    if not isinstance(model, nn.Module):
        raise ValueError(f"Argument `model` must be a network or a chip, but got {type(model).__name__}")
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise ValueError(f"Argument `draws` must be an integer of at least 1, but got {draws!r}")
    data = RepeatableBatches(loader, batch_size=batch_size, seed=seed, name="loader")
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    if not named:
        raise ValueError("Argument `model` must have parameters, but has none")
    reasons: dict[str, str] = dict.fromkeys(named, "")
    methods: dict[str, str] = dict.fromkeys(named, method)
    with _readable(model, named.values()):
        if method == "second_derivative":
            values, ended = _by_rules(model, named, data, loss, progress)
            left = {name: named[name] for name, value in values.items() if bool(torch.isnan(value).any())}
            for name in left:
                methods[name] = fallback
                reasons[name] = f"after it the rules end: {', '.join(ended)}"
            if left:
                values |= _by_draws(fallback, model, left, data, loss, draws, seed, progress)
        else:
            values = _by_draws(method, model, named, data, loss, draws, seed, progress)
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"Argument `loader` must lead to finite second derivatives, but those of `{name}` are NaN or infinite; "
                "check the inputs and the weights"
            )
    rows = [{"parameter": name, "method": methods[name], "reason": reasons[name]} for name in named]
    return Curvature(values, pd.DataFrame(rows))


def _by_rules(
    model: nn.Module, named: Mapping[str, nn.Parameter], data: RepeatableBatches, loss: LossName, progress: bool | None
) -> tuple[dict[str, Tensor], list[str]]:
    parameters = list(named.values())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    total, rules = 0.0, SquaredRules()
    for batch in _shown(data, "second derivatives", progress):
        with torch.enable_grad(), rules:
            outputs = _outputs(model, batch)
        second, count = _curvature_of_loss(outputs.detach(), batch.targets, loss)
        found = torch.autograd.grad(outputs, parameters, second, allow_unused=True)
        for place, part in enumerate(found):
            if part is not None:
                sums[place] += part
        total += count
    return {name: part / total for name, part in zip(named, sums, strict=True)}, list(rules.ended)


def _curvature_of_loss(outputs: Tensor, targets: Any, loss: LossName) -> tuple[Tensor, float]:
    """Return d2L/dz2 of the summed loss in each output, and how many terms the mean runs over."""
    if loss == "mse":
        return torch.full_like(outputs, 2.0), outputs.numel()
    if loss == "binary_cross_entropy":
        probability = torch.sigmoid(outputs)
        return probability * (1 - probability), outputs.numel()
    probability = _softmax(outputs)
    kept = _kept(outputs, targets)
    return probability * (1 - probability) * kept.unsqueeze(1), float(kept.sum())


def _softmax(outputs: Tensor) -> Tensor:
    if outputs.dim() < 2:
        raise ValueError(f"Argument `model` must return class scores of shape (batch, classes, ...), but got {tuple(outputs.shape)}")
    return torch.softmax(outputs, 1)


def _kept(outputs: Tensor, targets: Any) -> Tensor:
    """Return 1 for every element that counts, 0 where its target is left out; of the outputs' shape without the classes."""
    ones = outputs.new_ones(outputs.shape[0], *outputs.shape[2:])
    if isinstance(targets, Tensor) and targets.shape == ones.shape and not targets.is_floating_point():
        ones = ones * (targets != IGNORED)
    return ones


def _by_draws(
    method: str,
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    data: RepeatableBatches,
    loss: LossName,
    draws: int,
    seed: int,
    progress: bool | None,
) -> dict[str, Tensor]:
    find: Callable[..., tuple[list[Tensor], float]] = _fisher if method == "fisher" else _hutchinson
    sums = [torch.zeros_like(parameter) for parameter in named.values()]
    total = 0.0
    with plain_kernels():
        for index, batch in enumerate(_shown(data, method, progress)):
            for draw in range(draws):
                key = Key.of(seed=seed, layer=f"batch {index}", tile=draw, purpose=method)
                found, count = find(model, named, batch, loss, key)
                sums = [part + more for part, more in zip(sums, found, strict=True)]
                total += count
    return {name: part / total for name, part in zip(named, sums, strict=True)}


def _hutchinson(model: nn.Module, named: Mapping[str, nn.Parameter], batch: Batch, loss: LossName, key: Key) -> tuple[list[Tensor], float]:
    if batch.targets is None:
        raise ValueError("Argument `loader` must yield (inputs, targets) for hutchinson, but its batches have no targets")
    parameters = list(named.values())
    with torch.enable_grad():
        outputs = _outputs(model, batch)
        value, count = _loss(outputs, batch.targets, loss)
        first = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        signs = [_signs(parameter, key.fold(name)) for name, parameter in named.items()]
        product = sum(((part * sign).sum() for part, sign in zip(first, signs, strict=True) if part is not None), torch.zeros(()))
    if not product.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters], count
    second = torch.autograd.grad(product, parameters, allow_unused=True)
    return [torch.zeros_like(sign) if part is None else part * sign for part, sign in zip(second, signs, strict=True)], count


def _loss(outputs: Tensor, targets: Any, loss: LossName) -> tuple[Tensor, float]:
    """Return the summed loss and how many terms it has."""
    if loss == "mse":
        return functional.mse_loss(outputs, targets, reduction="sum"), outputs.numel()
    if loss == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="sum"), outputs.numel()
    kept = float(_kept(outputs, targets).sum())
    return functional.cross_entropy(outputs, targets, reduction="sum"), kept


def _signs(parameter: Tensor, key: Key) -> Tensor:
    drawn = normal(key, parameter.shape, parameter.device)
    return torch.where(drawn > 0, 1.0, -1.0).to(parameter.dtype)


def _fisher(model: nn.Module, named: Mapping[str, nn.Parameter], batch: Batch, loss: LossName, key: Key) -> tuple[list[Tensor], float]:
    with torch.no_grad():
        outputs = _outputs(model, batch)
        back = _drawn_gradient(outputs, batch.targets, loss, key)
        count = float(_kept(outputs, batch.targets).sum()) if loss == "cross_entropy" else outputs.numel()
    sums = [torch.zeros_like(parameter) for parameter in named.values()]
    for start in range(0, len(outputs), SAMPLE_BLOCK):
        rows = slice(start, min(start + SAMPLE_BLOCK, len(outputs)))
        part = _rows_of(batch, rows, len(outputs))
        found = _sample_squares(model, named, part, back[rows])
        sums = [total + more for total, more in zip(sums, found, strict=True)]
    return sums, count


def _drawn_gradient(outputs: Tensor, targets: Any, loss: LossName, key: Key) -> Tensor:
    """Return a gradient in the outputs whose outer product has the loss's Hessian as its mean: of labels drawn from the model."""
    if loss == "mse":
        return math.sqrt(2.0) * _signs(outputs, key)
    if loss == "binary_cross_entropy":
        probability = torch.sigmoid(outputs)
        return probability - (uniform(key, outputs.shape, outputs.device) < probability).to(outputs.dtype)
    probability = _softmax(outputs)
    kept = _kept(outputs, targets)
    drawn = uniform(key, kept.shape, outputs.device).unsqueeze(1)
    label = (probability.cumsum(1) < drawn).sum(1).clamp(max=outputs.shape[1] - 1)
    chosen = torch.zeros_like(probability).scatter_(1, label.unsqueeze(1), 1.0)
    return (probability - chosen) * kept.unsqueeze(1)


def _sample_squares(model: nn.Module, named: Mapping[str, nn.Parameter], batch: Batch, back: Tensor) -> list[Tensor]:
    """Return the squared gradients of single samples, summed over them."""
    names, parameters = list(named), list(named.values())
    indirect = any(isinstance(module, HardwareLayer) and module.view is not None for module in model.modules())
    simple = not batch.keywords and all(isinstance(one, Tensor) and len(one) == len(back) for one in batch.inputs)
    if simple and not indirect:

        def read(values: Sequence[Tensor], inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
            outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), tuple(one.unsqueeze(0) for one in inputs))
            return (pick(outputs) * weight.unsqueeze(0)).sum()

        try:
            gradients = torch.func.vmap(torch.func.grad(read), (None, 0, 0))([p.detach() for p in parameters], batch.inputs, back)
            return [part.square().sum(0) for part in gradients]
        except (RuntimeError, NotImplementedError):
            pass  # an operation that cannot be vectorized over samples, or a model that looks at its numbers: one by one
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for row in range(len(back)):
        with torch.enable_grad():
            outputs = _outputs(model, _rows_of(batch, slice(row, row + 1), len(back)))
        found = torch.autograd.grad(outputs, parameters, back[row : row + 1], allow_unused=True)
        sums = [total if part is None else total + part.square() for total, part in zip(sums, found, strict=True)]
    return sums


def _rows_of(batch: Batch, rows: slice, count: int) -> Batch:
    def cut(value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value

    return Batch(tuple(cut(one) for one in batch.inputs), {name: cut(one) for name, one in batch.keywords.items()}, None)


def _outputs(model: nn.Module, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    there = batch.to(device)
    return pick(model(*there.inputs, **there.keywords))


def _shown(data: RepeatableBatches, word: str, progress: bool | None) -> Iterator[Batch]:
    source = data._source
    return track(data, len(source), word, progress) if isinstance(source, Sized) else iter(data)


@contextmanager
def _readable(model: nn.Module, parameters: Any) -> Iterator[None]:
    """Put a model into eval mode with gradients for all its parameters, a chip into float; all as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in parameters]
    with ExitStack() as stack:
        if isinstance(model, Chip):
            stack.enter_context(model.reference())
        stack.enter_context(one_thread())
        try:
            model.eval()
            for parameter, _ in asked:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, before in asked:
                parameter.requires_grad_(before)
            for module, training in modes:
                module.training = training


def _check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"Argument `{name}` must be one of {', '.join(allowed)}, but got {value!r}")
