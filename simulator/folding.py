"""The compiler pass that folds batch norm into the layer before it, so that hardware stores one set of weights."""

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from simulator.capture import Capture

FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class FoldingReport:
    """What the pass did.

    Attributes
    ----------
    folded
        Name of each batch norm that is gone, and of the layer that took it in.
    kept
        Name of each batch norm that stays, and why.
    notes
        How it is known that folding is safe, where that was not seen in a graph of the model.
    """

    folded: dict[str, str]
    kept: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)


class FoldedNorm(nn.Identity):
    """In the place of a batch norm that was folded by what one call showed: refuses calls that take another path.

    Its own input must be the very output of the layer that it is folded into, and nobody may leave it out: a branch on shapes, which no
    single call shows, would else compute something else without a word.

    Parameters
    ----------
    name, layer_name
        Of the batch norm, and of the layer that took it in.
    layer
        That layer.
    """

    def __init__(self, name: str, layer_name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name, self.layer_name = name, layer_name
        self._waiting: weakref.ref[Tensor] | None = None
        layer.register_forward_hook(self._made)  # what takes the layer's place on hardware takes over its hooks

    def _made(self, layer: nn.Module, arguments: Any, outputs: Tensor) -> None:
        self.finish()
        self._waiting = weakref.ref(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs."""
        if isinstance(inputs, Tensor):  # and not what stands for one while torch.fx traces
            if self._waiting is None or self._waiting() is not inputs:
                self._refuse()
            self._waiting = None
        return inputs

    def begin(self) -> None:
        """Begin a call of the model."""
        self._waiting = None

    def finish(self) -> None:
        """Refuse a call that read the layer without its batch norm."""
        if self._waiting is not None:
            self._refuse()

    def _refuse(self) -> None:
        self._waiting = None
        raise RuntimeError(
            f"Batch norm `{self.name}` must follow layer `{self.layer_name}`, into which it was folded, as it did with the example inputs, "
            "but this call takes another path; compile with the batch norm as a layer of its own, or without the branch"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_waiting": None}  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Return what ``print(chip)`` shows."""
        return f"folded into {self.layer_name}"


def fold_batch_norm(model: nn.Module, output_dimensions: dict[str, int], recorded: Capture | None = None) -> FoldingReport:
    """Fold every batch norm that directly and alone follows a linear layer or convolution; changes `model`.

    Parameters
    ----------
    model
        The compiler's own copy, in eval mode.
    output_dimensions
        Dimensions of the output of each layer as seen with example inputs; a linear layer is folded only where it is 2,
        because batch norm runs over axis 1, which for more dimensions is not the linear layer's output.
    recorded
        A call of the model: where it cannot be traced as a graph, a batch norm is folded if in this call it alone read what a layer
        gave, nobody kept that, and no number was handed to Python, so that no other inputs of these shapes take another path; a call
        of other shapes that does is refused (`FoldedNorm`).

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    >>> fold_batch_norm(model, {}).folded
    {'1': '0'}
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, NORMS)}
    if not norms:
        return FoldingReport({}, {})
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the user's own code, which may raise anything
        reason = f"batch-norm folding did not run: the model could not be captured as a graph ({type(error).__name__})"
        if recorded is None:
            return FoldingReport({}, dict.fromkeys(norms, f"{reason}, and there are no example_inputs to record a call with"))
        if recorded.looks:
            return FoldingReport({}, dict.fromkeys(norms, f"{reason}, and `{min(recorded.looks)}` looks at values in Python"))
        return _fold_recorded(model, norms, recorded)
    modules = dict(model.named_modules())
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    folded: dict[str, str] = {}
    kept: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != "call_module" or str(node.target) not in norms:
            continue
        name = str(node.target)
        source = node.args[0] if node.args else next(iter(node.kwargs.values()))
        reason = _refusal(name, norms[name], source, modules, calls, output_dimensions)
        if reason:
            kept[name] = reason
            continue
        assert isinstance(source, fx.Node)
        layer_name = str(source.target)
        _fold_into(model, layer_name, name)
        folded[name] = layer_name
    for name in norms.keys() - folded.keys() - kept.keys():
        kept[name] = "batch norm is never called"
    return FoldingReport(folded, kept)


def _refusal(
    norm_name: str,
    norm: nn.Module,
    source: object,
    modules: dict[str, nn.Module],
    calls: Counter[int],
    output_dimensions: dict[str, int],
) -> str:
    if not isinstance(source, fx.Node) or source.op != "call_module" or not isinstance(modules[str(source.target)], FOLDABLE):
        return "batch norm does not directly follow a linear layer or convolution"
    layer_name = str(source.target)
    layer = modules[layer_name]
    assert isinstance(norm, NORMS)
    if any(node.op == "get_attr" and str(node.target).startswith((f"{layer_name}.", f"{norm_name}.")) for node in source.graph.nodes):
        return f"the model reads parameters of {layer_name} or of the batch norm elsewhere"
    if len(source.users) > 1 or calls[id(layer)] > 1 or calls[id(norm)] > 1:
        return f"the output of {layer_name} is used elsewhere too, or a module is called twice"
    return _mismatch(layer_name, layer, norm, output_dimensions)


def _mismatch(layer_name: str, layer: nn.Module, norm: nn.Module, output_dimensions: dict[str, int]) -> str:
    """Return why a batch norm that alone follows a layer cannot be folded into it, or nothing."""
    assert isinstance(norm, NORMS)
    if any(_has_hooks(module) for module in (layer, norm)):
        return f"hooks hang on the batch norm or on {layer_name}, or one has a forward of its own"
    if not (norm.running_var is None or bool((norm.running_var >= 0).all())):
        return "its running variance is negative or NaN"
    if norm.running_mean is None or norm.running_var is None:
        return "batch norm without running statistics cannot be folded"
    assert isinstance(layer, FOLDABLE)
    if norm.num_features != layer.weight.shape[0]:
        return f"batch norm runs over another axis than the outputs of {layer_name}"
    if isinstance(layer, nn.Linear) and output_dimensions.get(layer_name) != 2:
        return f"batch norm after {layer_name} needs example_inputs with one vector a sample to be folded"
    return ""


def _fold_recorded(model: nn.Module, norms: Mapping[str, nn.Module], recorded: Capture) -> FoldingReport:
    """Fold what a recorded call shows to be safe."""
    modules = dict(model.named_modules())
    several = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    folded: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, norm in norms.items():
        sources = [layer for layer, watch in recorded.watched.items() if name in watch.given_to]
        layer_name = sources[0] if len(sources) == 1 else ""
        layer = modules.get(layer_name)
        if name not in recorded.called:
            kept[name] = "batch norm is not called with the example inputs"
        elif not isinstance(layer, FOLDABLE):
            kept[name] = "batch norm does not directly follow a linear layer or convolution"
        else:
            watch, own = recorded.watched[layer_name], recorded.watched.get(name)
            foreign = sorted(reader for reader in (own.readers if own is not None else ()) if reader.startswith("parameters: "))
            if watch.kept or watch.readers != {name} or watch.given_to != [name]:
                kept[name] = f"the output or the parameters of {layer_name} are used elsewhere too"
            elif watch.calls > 1 or recorded.called[name] > 1 or several[id(layer)] > 1 or several[id(norm)] > 1:
                kept[name] = f"{layer_name} or the batch norm is called twice"
            elif foreign:
                kept[name] = "the model reads parameters of the batch norm elsewhere"
            else:
                kept[name] = _mismatch(layer_name, layer, norm, recorded.dimensions)
        if not kept.get(name):
            kept.pop(name)
            _fold_into(model, layer_name, name, FoldedNorm(name, layer_name, model.get_submodule(layer_name)))
            folded[name] = layer_name
    note = "nothing else read its input in the call with the example inputs; the model could not be captured as a graph"
    return FoldingReport(folded, kept, dict.fromkeys(folded, note))


def _fold_into(model: nn.Module, layer_name: str, norm_name: str, instead: nn.Module | None = None) -> None:
    _fold(model.get_submodule(layer_name), model.get_submodule(norm_name))
    parent, _, attribute = norm_name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, instead or nn.Identity())


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(layer, FOLDABLE)
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = torch.sqrt(norm.running_var.double() + norm.eps)
    gain: Tensor = (norm.weight.double() if norm.weight is not None else torch.ones_like(deviation)) / deviation
    shift = norm.bias.double() if norm.bias is not None else torch.zeros_like(deviation)
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(deviation)
    trainable = layer.weight.requires_grad
    weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=trainable)
    layer.bias = nn.Parameter(((bias - norm.running_mean.double()) * gain + shift).to(layer.weight.dtype), requires_grad=trainable)
