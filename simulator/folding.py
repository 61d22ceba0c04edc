"""The compiler pass that folds batch norm into the layer before it, so that hardware stores one set of weights."""

import operator as _operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

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
    """

    folded: dict[str, str]
    kept: dict[str, str]


def fold_batch_norm(model: nn.Module, output_dimensions: dict[str, int]) -> FoldingReport:
    """Fold every batch norm that directly and alone follows a linear layer or convolution; changes `model`.

    Parameters
    ----------
    model
        The compiler's own copy, in eval mode.
    output_dimensions
        Dimensions of the output of each layer as seen with example inputs; a linear layer is folded only where it is 2,
        because batch norm runs over axis 1, which for more dimensions is not the linear layer's output.

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
        return FoldingReport({}, dict.fromkeys(norms, reason))
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
        _fold(modules[layer_name], norms[name])
        parent, _, attribute = name.rpartition(".")
        setattr(_operator.attrgetter(parent)(model) if parent else model, attribute, nn.Identity())
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
    if any(_has_hooks(module) for module in (layer, norm)):
        return f"hooks hang on the batch norm or on {layer_name}, or one has a forward of its own"
    if any(node.op == "get_attr" and str(node.target).startswith((f"{layer_name}.", f"{norm_name}.")) for node in source.graph.nodes):
        return f"the model reads parameters of {layer_name} or of the batch norm elsewhere"
    if not (norm.running_var is None or bool((norm.running_var >= 0).all())):
        return "its running variance is negative or NaN"
    if len(source.users) > 1 or calls[id(layer)] > 1 or calls[id(norm)] > 1:
        return f"the output of {layer_name} is used elsewhere too, or a module is called twice"
    if norm.running_mean is None or norm.running_var is None:
        return "batch norm without running statistics cannot be folded"
    assert isinstance(layer, FOLDABLE)
    if norm.num_features != layer.weight.shape[0]:
        return f"batch norm runs over another axis than the outputs of {layer_name}"
    if isinstance(layer, nn.Linear) and output_dimensions.get(layer_name) != 2:
        return f"batch norm after {layer_name} needs example_inputs with one vector a sample to be folded"
    return ""


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
