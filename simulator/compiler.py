"""From a PyTorch model and a design to a chip."""

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from devices.base import Hardware, SpikingCore
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.capture import Capture, capture, without_fast_path
from simulator.chip import Chip
from simulator.coverage import CoverageRow, coverage_rows, names_in_model
from simulator.digital_arithmetic import check_digital, digital_warnings
from simulator.folding import fold_batch_norm
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.lowering.wholes import is_whole, show_weights
from simulator.placement import Candidate, Placeable, Plan, place
from simulator.routing import Finder, Site
from simulator.run_time import place_run_time, run_time_sites
from simulator.weight_layers import COMPUTED, NotMappedError, WeightView, computes_weight, is_weight_layer, weight_layer

if TYPE_CHECKING:
    from simulator.spiking.coding import Coding
    from simulator.spiking.recipes import Recipe

HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
"""Where torch keeps what a user hung on a module: a layer on hardware takes it over."""

MIRRORED = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
"""What models ask of their layers; a layer on hardware answers the same."""


@torch.inference_mode(False)  # the chip's parameters can be trained, whoever compiles it
def compile(
    model: nn.Module,
    design: Placeable,
    *,
    example_inputs: Any = (),
    example_kwargs: Mapping[str, Any] | None = None,
    calibration: Any = None,
    digital: Hardware | None = None,
    strict: bool = False,
    seed: int = 0,
    timesteps: int | None = None,
    method: "str | Recipe" = "calibrated",
    coding: "Coding" = "direct",
) -> Chip:
    """Compile a model onto hardware.

    The caller's model is left untouched; the chip shares its storage until the first write. Batch norm is folded once into
    the chip's master weights. Nothing is programmed before ``chip.program`` or the first read in eval mode.

    Parameters
    ----------
    model
        Any `nn.Module` with float32 parameters.
    design
        A design for every layer it can take; or a mapping of name patterns (``"features.*"``) or of layer types (``nn.Conv2d``) to
        designs; or a function of a layer's name and weights that returns a design or None; or `Auto`, which places layers under a
        budget. What is not named stays digital; a type means the layer as you wrote it, so ``nn.LSTM`` is all matrices inside one.
    example_inputs
        Arguments of one call of the model, a tuple or one tensor: shows shapes, and sets converter ranges where there is
        no `calibration`.
    example_kwargs
        Keyword arguments of that call.
    calibration
        A loader, data set or batches on which converter ranges are chosen; targets are ignored.
    digital
        What computes everything else, in its number formats: a digital array (products of activations, as in attention, become
        integer products; the rest runs on its `vector` unit if it has one) or a `VectorUnit`. None: the host, in float32.
    strict
        Refuse a model with a multiply-accumulate that lies on no hardware, or a contraction without a formula.
    seed
        Seed of training noise, and of the first programming if nobody calls ``program``.
    timesteps
        Time steps of a call, for a spiking core: at least 1.
    method
        How a ReLU network becomes spiking: ``"none"`` (largest activations as thresholds), ``"threshold"`` (of least error), ``"optimal"``
        (half a threshold to start with), ``"light"`` or ``"calibrated"`` (and biases), ``"advanced"`` (and weights and initial potentials),
        or a `simulator.spiking.Recipe` with its numbers.
    coding
        How a spiking core gets its input. ``"direct"``: the analog values at every step, of any range. ``"rate"``: random spikes with the
        probability of the value, inputs in 0..1. ``"latency"``: one spike, the earlier the larger the value, inputs in 0..1; for networks
        of trained neurons, as a ReLU stands for a rate. ``"events"``: inputs (batch, timesteps, ...) of whole numbers of spikes, 0 to 255.

    Returns
    -------
    Chip
        In eval mode.

    Raises
    ------
    ValueError
        If the model has no layer that can be mapped, or holds NaN, infinity or another dtype than float32; if a pattern or type
        matches nothing, a layer matches two, or hardware that a layer was asked for cannot run it; or in strict mode.

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
    model = _written(model)
    with one_thread():
        _check_model(model)
    _check_spiking(design, timesteps, method, coding)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"Argument `seed` must be an integer of at least 0, but got {seed!r}")
    check_digital(digital)
    inner = _share(model).eval()
    batches = None if calibration is None else _calibration(calibration)
    examples = _examples(example_inputs, example_kwargs)
    if examples is None and batches is not None:
        examples = next(iter(batches))
    if isinstance(design, SpikingCore):
        from simulator.spiking.compiling import compile_spiking  # which imports this package's modules

        return compile_spiking(inner, design, examples, calibration, timesteps=timesteps, method=method, coding=coding, seed=seed)
    before = None if examples is None else _first_call(inner, examples)
    with one_thread():
        folding = fold_batch_norm(inner, {} if before is None else before.dimensions, before)
    spiking: dict[str, list[CoverageRow]] = {}
    spiking_warnings: list[str] = []
    if isinstance(design, Mapping) and any(isinstance(part, SpikingCore) for part in design.values()):
        from simulator.mixed_spiking import place_spiking, split_design

        others, cores = split_design(design)
        design = others
        parts = place_spiking(inner, cores, others, examples, _replace, timesteps=timesteps, method=method, coding=coding, seed=seed)
        inner, spiking, spiking_warnings = parts.model, parts.rows, parts.warnings
    kinds = _kinds(inner)
    inner, reasons = _show_weights(inner)
    with in_mode(inner, Mode.FLOAT):
        sites, made = ([], []) if examples is None else _find_sites(inner, examples)
    candidates, refusals = _candidates(inner, sites, kinds)
    if spiking and not design:
        plan = Plan({}, dict.fromkeys(candidates, "no pattern of `design` names it"))
    else:
        plan = place(
            design, candidates, refusals, seed, None if examples is None else lambda: inner(*examples.inputs, **examples.keywords), made
        )
    for name, lowered in plan.layers.items():
        replaced = candidates[name].module
        if replaced is not None:
            inner = _replace(inner, replaced, lowered)
    routed = [lowered for name, lowered in plan.layers.items() if candidates[name].module is None]
    warnings = [*dict.fromkeys(folding.kept.values()), *spiking_warnings, *plan.warnings]
    chip = Chip(inner, routed, [], warnings, seed, digital)
    if not chip.layers:
        raise ValueError(
            f"Argument `model` must have at least one layer that `design` places, but got none in {type(model).__name__}; "
            f"{_why_none({**refusals, **reasons, **plan.reasons})}"
        )
    chip.eval()
    after = None
    left: dict[tuple[str, str], str] = {}
    if examples is not None:
        with chip.reference():
            after = capture(chip, examples)
        run_time = run_time_sites(after.contractions, chip.model, names_in_model(chip.model))
        placed, left = place_run_time(design, run_time, lambda pattern: any(fnmatchcase(name, pattern) for name in candidates), seed)
        chip.run_time.extend(placed)
        chip._nodes, chip._edges = after.nodes, after.edges
        chip.warnings += digital_warnings(after, digital)
    chip._rows = coverage_rows(
        chip, before, after, folding, {**reasons, **refusals, **plan.reasons}, digital, chip.products_on_hardware, left, spiking
    )
    if before is not None and after is not None and before.macs != chip.macs:
        chip.warnings.append(f"The rows of the coverage table hold {chip.macs} MACs, but the model's call has {before.macs}")
    if strict:
        _require_hardware(chip, examples)
    for name in chip.layers if after is not None else ():
        if name not in {*spiking, *(row.layer for row in chip._rows if row.macs)} and not chip.layers[name].takes_circuits:
            chip.warnings.append(f"Layer `{name}` lies on hardware but was never called with the example inputs")
    chip.warnings += [f"Layer `{name}`: {COMPUTED}" for name, layer in chip.layers.items() if layer.note == COMPUTED]
    if batches is not None:
        chip.calibrate(batches)
    else:
        chip._observe(iter(() if examples is None else (examples,)), "calibration data or example inputs")
    return chip


def _first_call(model: nn.Module, examples: Batch) -> Capture:
    """Call the model once; an input that it does not take is the caller's, and is said so in one line."""
    try:
        return capture(model, examples)
    except Exception as error:  # the model's own code may raise anything
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Argument `example_inputs` must be what the model takes, but its call failed: {line}") from error


def _kinds(model: nn.Module) -> Callable[[str], type[nn.Module]]:
    """Return what tells a layer's class as the user wrote it: where it lies in a whole, or holds a parameter, that of the module."""
    classes = {name: type(module) for name, module in model.named_modules()}
    wholes = {name for name, module in model.named_modules() if is_whole(module)}

    def kind(name: str) -> type[nn.Module]:
        parts = name.split(".")
        above = ["", *(".".join(parts[: count + 1]) for count in range(len(parts)))]
        known = [prefix for prefix in above if prefix in classes]
        return classes[next((prefix for prefix in known if prefix in wholes), known[-1])]

    return kind


def _show_weights(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Exchange layers that hide their weights; returns the model, and why some stayed as they are."""
    reasons: dict[str, str] = {}
    closed = {id(part) for module in model.modules() if isinstance(module, HardwareLayer) for part in module.modules()}
    for name, module in list(model.named_modules()):
        if is_whole(module) and id(module) not in closed:
            try:
                model = _replace(model, module, show_weights(module))
            except NotMappedError as refusal:
                reasons[name or "model"] = str(refusal)
    return model, reasons


def _find_sites(model: nn.Module, examples: Batch) -> tuple[list[Site], list[str]]:
    """Return parameters that functions use as weights, and names of products whose weights are made at run time."""
    seen = capture(model, examples)
    finder = Finder(model, seen.called)
    with torch.no_grad(), one_thread(), without_fast_path(), finder:
        model(*examples.inputs, **examples.keywords)
    return finder.sites(), [site.name for site in run_time_sites(seen.contractions, model, {})]


def _candidates(model: nn.Module, sites: list[Site], kind: Callable[[str], type[nn.Module]]) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return what can be placed by name, and why other modules with weights cannot."""
    found: dict[str, Candidate] = {}
    refusals: dict[str, str] = {}
    hidden = {id(part) for module in model.modules() if is_whole(module) for part in module.modules()}
    routed = {id(site.layer.weight.parameter) for site in sites if isinstance(site.layer.weight, WeightView)}
    for name, module in _leaves(model):
        if id(module) in hidden or any(id(parameter) in routed for parameter in module.parameters(recurse=False)):
            continue
        try:
            found[name] = Candidate(weight_layer(module), module, kind(name))
        except NotMappedError as refusal:
            refusals[name] = str(refusal)
    found.update({site.name: Candidate(site.layer, None, kind(site.name)) for site in sites})
    return found, refusals


def _require_hardware(chip: Chip, examples: Batch | None) -> None:
    if examples is None:
        raise ValueError("Argument `strict` needs example_inputs or calibration data, but got none: without a call nothing can be counted")
    left = [f"{row.layer} ({row.kind}: {row.reason})" for row in chip._rows if row.hardware == "host" and row.macs != 0]
    if left:
        raise ValueError(f"Argument `strict`: every multiply-accumulate must lie on hardware, but these stay digital: {', '.join(left)}")


def _written(model: Any) -> Any:
    """Return the module that was given to `torch.compile`: its compiled form would freeze the noise that a layer draws."""
    while _is_optimized(model):
        model = model._orig_mod
    return model


def _is_optimized(model: Any) -> bool:
    frames = sys.modules.get("torch._dynamo.eval_frame")  # loading it takes seconds, and who called torch.compile has
    return frames is not None and isinstance(model, frames.OptimizedModule)


def _check_spiking(design: Any, timesteps: int | None, method: "str | Recipe", coding: str) -> None:
    """Refuse what only spiking cores read where there are none."""
    if isinstance(design, SpikingCore) or (isinstance(design, Mapping) and any(isinstance(part, SpikingCore) for part in design.values())):
        return
    for name, value, usual in (("timesteps", timesteps, None), ("method", method, "calibrated"), ("coding", coding, "direct")):
        if value != usual:
            raise ValueError(f"Argument `{name}` must be left out where no layer lies on spiking cores, but got {value!r}; drop it")


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"Argument `model` must be an nn.Module, but got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or _is_optimized(module):
            raise ValueError(
                f"Argument `model`: `{name or type(model).__name__}` must be a module in Python, but is compiled by torch "
                f"({type(module).__name__}); compile the module that it was made of"
            )
    for name, module in model.named_modules():
        if isinstance(module, Chip | HardwareLayer):
            raise ValueError(
                f"Argument `model`: `{name or type(model).__name__}` must not be compiled yet, but is; compile the float model once"
            )
        if ".quantized" in type(module).__module__ or any(buffer.is_quantized for buffer in module.buffers(recurse=False)):
            raise ValueError(
                f"Argument `model`: `{name or type(model).__name__}` must hold float32 weights, but {type(module).__name__} is quantized; "
                "compile the float model, the design says how it is quantized"
            )
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise ValueError(f"Argument `model`: buffer `{name}` must hold numbers, but lies on the meta device; load its state first")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"Argument `model`: parameter `{name}` must be initialized, but has no shape yet; call the model once first")
        if parameter.is_meta:
            raise ValueError(f"Argument `model`: parameter `{name}` must hold numbers, but lies on the meta device; load weights first")
        if parameter.layout is not torch.strided:
            raise ValueError(f"Argument `model`: parameter `{name}` must be dense, but got {parameter.layout}; call to_dense() first")
        if (parameter.is_floating_point() or parameter.is_complex()) and parameter.dtype is not torch.float32:
            raise ValueError(f"Argument `model`: parameter `{name}` must be float32, but got {parameter.dtype}; call model.float() first")
        if not bool(torch.isfinite(parameter.detach()).all()):
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
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                # A weight that pruning or weight norm computed: torch does not copy it, and the next call computes it again.
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the model holds says in its own way that it cannot be copied
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Argument `model` must be a module that copy.deepcopy can copy, but that failed: {line}") from error


def _lazy_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor, when either side first writes to it where torch can: where it allocated the numbers itself.

    Numbers from NumPy, of `torch.load`, mapped from a file, in shared memory or made in inference mode are copied now. `torch.load`
    makes storages without an allocator, which torch shares all the same, and then dies of a segmentation fault when they are written
    to; they are not resizable.
    """
    found = tensor.detach()
    if found.is_inference() or not found.untyped_storage().resizable():
        return found.clone()
    try:
        return torch._lazy_clone(found)
    except RuntimeError:
        return found.clone()


def _examples(example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> Batch | None:
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not inputs and not example_kwargs:
        return None
    return Batch(inputs, dict(example_kwargs or {}))


def _calibration(data: Any) -> Iterable[Batch]:
    return [Batch((data,))] if isinstance(data, Tensor) else RepeatableBatches(data, name="calibration")


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the innermost modules by name, parametrized layers as one; a model that is itself one is called ``model``."""
    closed = [module for module in model.modules() if is_weight_layer(module) or isinstance(module, HardwareLayer)]
    inside = {id(part) for module in closed for part in module.modules() if part is not module or isinstance(module, HardwareLayer)}
    return [
        (name or "model", module)
        for name, module in model.named_modules()
        if id(module) not in inside and (is_weight_layer(module) or not any(module.children()))
    ]


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in the place of another under every name that leads to it; returns the model."""
    new.train(old.training)
    for hooks in HOOKS:
        getattr(new, hooks).update(getattr(old, hooks))
    for handle in [handle for handle, hook in old._forward_pre_hooks.items() if computes_weight(hook)]:
        new._forward_pre_hooks.pop(handle)
    for attribute in MIRRORED:
        if hasattr(old, attribute) and not hasattr(new, attribute):
            setattr(new, attribute, getattr(old, attribute))
    for parent in list(model.modules()):
        for attribute, child in parent._modules.items():
            if child is old:
                parent._modules[attribute] = new
    return new if model is old else model


def _why_none(reasons: Mapping[str, str]) -> str:
    found = [f"`{name}`: {reason}" for name, reason in reasons.items() if reason]
    return f"layer {found[0]}" if found else "it has no layer with a matrix of weights"
