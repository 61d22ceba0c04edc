"""From a PyTorch model and a design to a chip."""

import copy
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from devices.base import Design
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip, CoverageRow
from simulator.folding import FOLDABLE, fold_batch_norm
from simulator.hardware import HardwareLayer
from simulator.lowering import NotMappedError, lower


def compile(
    model: nn.Module,
    design: Design | Mapping[str, Design],
    *,
    example_inputs: Any = (),
    example_kwargs: Mapping[str, Any] | None = None,
    calibration: Any = None,
    strict: bool = False,
    seed: int = 0,
) -> Chip:
    """Compile a model onto hardware.

    The caller's model is left untouched; the chip shares its storage until the first write. Batch norm is folded once into
    the chip's master weights. Nothing is programmed before ``chip.program`` or the first read in eval mode.

    Parameters
    ----------
    model
        Any `nn.Module` with float32 parameters.
    design
        A design for every layer it can take, or a mapping of name patterns (``"features.*"``) to designs; layers that no
        pattern matches stay digital.
    example_inputs
        Arguments of one call of the model, a tuple or one tensor: shows shapes, and sets converter ranges where there is
        no `calibration`.
    example_kwargs
        Keyword arguments of that call.
    calibration
        A loader, data set or batches on which converter ranges are chosen; targets are ignored.
    strict
        Refuse a model of which a layer with weights stays digital.
    seed
        Seed of training noise, and of the first programming if nobody calls ``program``.

    Returns
    -------
    Chip
        In eval mode.

    Raises
    ------
    ValueError
        If the model has no layer that can be mapped, or holds NaN, infinity or another dtype than float32; if a pattern
        matches nothing or a layer matches two; or in strict mode.

    Examples
    --------
    >>> import torch
    >>> from devices import RRAMCrossbar
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> chip = compile(model, RRAMCrossbar.preset("wan_nature_2022").ideal(), example_inputs=torch.rand(2, 4))
    >>> x = torch.rand(5, 4)
    >>> torch.allclose(chip(x), model(x))
    True
    """
    _check_model(model)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"Argument `seed` must be an integer of at least 0, but got {seed!r}")
    inner = _share(model).eval()
    examples = _examples(example_inputs, example_kwargs)
    seen = _shapes(inner, examples)
    # Batch norm needs the shapes seen with examples; calibration data serve where there are none.
    batches = None if calibration is None else _calibration(calibration)
    if examples is None and batches is not None:
        examples = next(iter(batches))
        seen = _shapes(inner, examples)
    dimensions = {name: len(shape) for name, shape in seen.items()}
    folding = fold_batch_norm(inner, dimensions)
    rows = [CoverageRow(name, "batch norm", f"folded into {layer}", 0, None, None, "") for name, layer in folding.folded.items()]
    designs = _placement(inner, design)
    unmapped: list[str] = []
    for name, layer in _leaves(inner):
        if name in folding.folded:
            continue
        reason = folding.kept.get(name, "")
        lowered = None
        if name in designs:
            try:
                lowered = lower(designs[name], layer, name, seed)
            except NotMappedError as refusal:
                reason = reason or str(refusal)
        elif isinstance(layer, FOLDABLE):
            reason = "no pattern of `design` names it"
        if lowered is None:
            macs = None if _has_weights(layer) else 0
            rows.append(CoverageRow(name, type(layer).__name__, "host", macs, None, None, reason or "no weights: digital"))
            if _has_weights(layer):
                unmapped.append(f"{name} ({reason})")
            continue
        inner = _replace(inner, layer, lowered)
        rows.append(_row(lowered, seen.get(name)))
    if not any(isinstance(module, HardwareLayer) for module in inner.modules()):
        raise ValueError(
            f"Argument `model` must have at least one layer that {_names(design)} can take, but got none in {type(model).__name__}"
        )
    if strict and unmapped:
        raise ValueError(f"Argument `strict`: every layer with weights must lie on hardware, but these stay digital: {', '.join(unmapped)}")
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    chip = Chip(inner, sorted(rows, key=lambda row: order.get(row.layer, 0)), list(dict.fromkeys(folding.kept.values())), seed)
    for name in chip.layers:
        if seen and name not in seen:
            chip.warnings.append(f"Layer `{name}` lies on hardware but was never called with the example inputs")
    if batches is not None:
        chip.calibrate(calibration)
    else:
        chip._observe(iter(() if examples is None else (examples,)), "calibration data or example inputs")
    return chip.eval()


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"Argument `model` must be an nn.Module, but got {type(model).__name__}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"Argument `model`: parameter `{name}` must be initialized, but has no shape yet; call the model once first")
        if parameter.is_meta:
            raise ValueError(f"Argument `model`: parameter `{name}` must hold numbers, but lies on the meta device; load weights first")
        if parameter.layout is not torch.strided:
            raise ValueError(f"Argument `model`: parameter `{name}` must be dense, but got {parameter.layout}; call to_dense() first")
        if parameter.is_floating_point() and parameter.dtype is not torch.float32:
            raise ValueError(f"Argument `model`: parameter `{name}` must be float32, but got {parameter.dtype}; call model.float() first")
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"Argument `model`: parameter `{name}` must be finite, but holds NaN or infinity; check its training")


def _share(model: nn.Module) -> nn.Module:
    """Copy the modules but not the numbers: tensors are copied when either side first writes to them."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = nn.Parameter(_lazy_copy(parameter), requires_grad=parameter.requires_grad)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = _lazy_copy(buffer)
    return copy.deepcopy(model, memo)


def _lazy_copy(tensor: Tensor) -> Tensor:
    return torch._lazy_clone(tensor.detach()) if tensor.layout is torch.strided else tensor.detach().clone()


def _examples(example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> Batch | None:
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not inputs and not example_kwargs:
        return None
    return Batch(inputs, dict(example_kwargs or {}))


def _calibration(data: Any) -> Iterable[Batch]:
    return [Batch((data,))] if isinstance(data, Tensor) else RepeatableBatches(data, name="calibration")


def _shapes(model: nn.Module, examples: Batch | None) -> dict[str, list[int]]:
    """Return the output shape of every layer that the example inputs reach; a layer called often counts all its rows."""
    shapes: dict[str, list[int]] = {}
    if examples is None:
        return shapes

    def record(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
            if isinstance(outputs, Tensor):
                shape = list(outputs.shape)
                shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes and shape else shape

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in _leaves(model)]
    try:
        with torch.no_grad(), one_thread():
            model(*examples.inputs, **examples.keywords)
    finally:
        for handle in hooks:
            handle.remove()
    return shapes


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules without children by name; a model that is itself one is called ``model``."""
    return [(name or "model", module) for name, module in model.named_modules() if not any(module.children())]


def _has_weights(layer: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))


def _placement(model: nn.Module, design: Design | Mapping[str, Design]) -> dict[str, Design]:
    """Return the design of each leaf that has one."""
    names = [name for name, _ in _leaves(model)]
    if isinstance(design, Design):
        return dict.fromkeys(names, design)
    if not isinstance(design, Mapping) or not design or not all(isinstance(part, Design) for part in design.values()):
        raise ValueError(f"Argument `design` must be a design or a mapping of name patterns to designs, but got {design!r:.80}")
    placed: dict[str, tuple[str, Design]] = {}
    for pattern, part in design.items():
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            known = ", ".join(names[:8])
            raise ValueError(f"Argument `design`: pattern {pattern!r} must match a layer, but matches none of {known}, ...")
        for name in matched:
            if name in placed:
                raise ValueError(
                    f"Argument `design`: layer `{name}` must match one pattern, but matches {placed[name][0]!r} and {pattern!r}"
                )
            placed[name] = (pattern, part)
    return {name: part for name, (_, part) in placed.items()}


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in the place of another under every name that leads to it; returns the model."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for attribute, child in parent._modules.items():
            if child is old:
                parent._modules[attribute] = new
    return model


def _row(layer: HardwareLayer, shape: list[int] | None) -> CoverageRow:
    placement = layer.placement
    macs = None if shape is None else layer.vectors(torch.empty(shape, device="meta")) * placement.macs_per_vector
    return CoverageRow(layer.name, layer.kind, placement.hardware, macs, placement.arrays, placement.utilization, placement.note)


def _names(design: Design | Mapping[str, Design]) -> str:
    parts = [design] if isinstance(design, Design) else list(design.values())
    return " or ".join(dict.fromkeys(type(part).__name__ for part in parts))
