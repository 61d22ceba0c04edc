"""Networks on cells that were formed at random once: what each cell of a layer gets, and the digital parts around it."""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from devices import RRAMCrossbar
from devices.base import ResistiveCell
from devices.rram import DifferentialMapping, RandomCell
from kernels.random import Key, normal
from simulator.chip import Chip
from simulator.lowering.crossbar import CrossbarLayer

Off = Literal["both_reset", "one_reset"]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class FormedPairs:
    """The two states of every pair of a layer, siemens: shape (2, *weight.shape) each, plus and minus cell.

    Attributes
    ----------
    on
        As formed: both cells set.
    off
        As pruned.
    """

    on: Tensor
    off: Tensor

    def standing(self, mask: Tensor) -> Tensor:
        """Return the conductances, (1, 2, *weight.shape), with the pairs on where the mask is True."""
        return torch.where(mask, self.on, self.off).unsqueeze(0)


def form_pairs(cell: ResistiveCell, shape: tuple[int, ...], key: Key, off: Off = "both_reset") -> FormedPairs:
    """Draw the pairs of a layer from a cell's own law.

    A set cell has the conductance that programming to g_max leaves (a `RandomCell` follows its law whatever the target); a reset cell
    that of programming to g_min (a `RandomCell` takes g_min: no law of its reset state is known).

    Parameters
    ----------
    cell
        The cell.
    shape
        Of the weight.
    key
        Names the array.
    off
        A pruned pair: ``both_reset``, two reset cells, next to nothing in difference; or ``one_reset``, abs(reset+ - set-) with the sign of
        the pair, which for a Gaussian law leaves more weight than a kept pair has.

    Examples
    --------
    >>> cell = RRAMCrossbar.preset("taox_40nm_random").cell
    >>> pairs = form_pairs(cell, (300, 300), Key.of(seed=0))
    >>> difference = pairs.on[0] - pairs.on[1]
    >>> round(float(difference.abs().mean()) * 1e6, 1), float(pairs.off.max())
    (6.0, 0.0)
    """
    like = torch.empty(2, *shape)
    put = cell.program(torch.full_like(like, cell.g_max_siemens), key.fold("set")).conductance
    low = torch.full_like(like, cell.g_min_siemens)
    reset = low if isinstance(cell, RandomCell) else cell.program(low, key.fold("reset")).conductance
    if off == "both_reset":
        return FormedPairs(put, reset)
    # The cell that is larger lies on the side of the pair's sign: the sign is digital.
    positive = put[0] >= put[1]
    kept, gone = torch.maximum(put[1], reset[0]), torch.minimum(put[1], reset[0])
    return FormedPairs(put, torch.stack((torch.where(positive, kept, gone), torch.where(positive, gone, kept))))


def sparse_pairs(cell: ResistiveCell, shape: tuple[int, ...], key: Key, zero_probability: float = 0.5) -> Tensor:
    """Draw pairs of which each cell stays unformed, at zero conductance, with a probability: shape (1, 2, *shape), siemens.

    With a law N(m, s^2) of the formed cells and p = 1 - `zero_probability`, the difference is a mixture: zero with probability (1 - p)^2,
    N(m, s^2) and N(-m, s^2) with p (1 - p) each, N(0, 2 s^2) with p^2; its variance is 2 (p (m^2 + s^2) - p^2 m^2).

    Examples
    --------
    >>> cell = RRAMCrossbar.preset("taox_40nm_random").cell
    >>> pairs = sparse_pairs(cell, (300, 300), Key.of(seed=0))
    >>> round(float((pairs[0, 0] - pairs[0, 1] == 0).float().mean()), 2)
    0.25
    """
    from kernels.random import uniform

    formed = cell.program(torch.full((1, 2, *shape), cell.g_max_siemens), key.fold("set")).conductance
    absent = uniform(key.fold("unformed"), formed.shape) < zero_probability
    return torch.where(absent, torch.zeros_like(formed), formed)


def fixed_read(cell: ResistiveCell, pairs: Tensor, key: Key) -> Tensor:
    """Return the differences of pairs (2, ...) as one read sees them, siemens: with the read noise of both cells, drawn once.

    Examples
    --------
    >>> cell = RRAMCrossbar.preset("taox_40nm_random").cell
    >>> pairs = form_pairs(cell, (50,), Key.of(seed=0)).on
    >>> bool((fixed_read(cell, pairs, Key.of(seed=1)) != pairs[0] - pairs[1]).all())
    True
    """
    difference = pairs[0] - pairs[1]
    sigma = cell.read_sigma(pairs, 0.0)
    if sigma is None:
        return difference
    return difference + sigma.square().sum(0).sqrt() * normal(key, difference.shape)


def check_random_design(design: Any) -> RRAMCrossbar:
    """Return a design whose pairs can be formed at random, or raise ValueError.

    Examples
    --------
    >>> check_random_design(RRAMCrossbar.preset("taox_40nm_random")).rows
    512
    """
    if not isinstance(design, RRAMCrossbar):
        raise ValueError(
            f"Argument `design` must be an RRAMCrossbar, but got {type(design).__name__}; random weights are pairs of its cells"
        )
    mapping = design.mapping
    if not isinstance(mapping, DifferentialMapping) or mapping.slices > 1 or mapping.weight_bits is not None:
        raise ValueError(
            f"Argument `design` must map a weight to the difference of one pair of cells, but got {mapping!r}; "
            "use DifferentialMapping() without weight_bits"
        )
    return design


def formed_layers(chip: Chip) -> dict[str, CrossbarLayer]:
    """Return the layers of a chip that can hold random pairs, by name.

    Raises
    ------
    ValueError
        If a layer uses a part of a parameter that it shares.

    Examples
    --------
    >>> import simulator as sim
    >>> chip = sim.compile(nn.Linear(4, 2), RRAMCrossbar.preset("taox_40nm_random"), example_inputs=torch.rand(1, 4))
    >>> list(formed_layers(chip))
    ['model']
    """
    layers = {name: layer for name, layer in chip.layers.items() if isinstance(layer, CrossbarLayer)}
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        if layer.view is not None:
            raise ValueError(f"Argument `net` must hold each weight in a layer of its own, but `{name}` is a part of a parameter")
        first = owners.setdefault(id(layer.master), name)
        if first != name:
            raise ValueError(f"Argument `net` must hold each weight in a layer of its own, but `{name}` and `{first}` share one")
    return layers


class DigitalNorm(nn.Module):
    """Batch norm that is computed digitally: it is not folded, as random cells cannot take a factor in.

    Parameters
    ----------
    features
        Channels, along axis 1.
    eps
        Added to the variance.
    momentum
        Share of a new batch in the running statistics; None averages over all batches since `reset`.
    affine
        Whether it has a scale and a shift, 1 and 0 at first.

    Examples
    --------
    >>> norm = DigitalNorm(1, momentum=None)
    >>> _ = norm(torch.tensor([[0.0], [2.0]])), norm(torch.tensor([[3.0], [5.0]]))
    >>> norm.running_mean
    tensor([2.5000])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = False) -> None:
        super().__init__()
        self.eps, self.momentum, self.batches = eps, momentum, 0
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None

    def reset(self) -> None:
        """Forget the running statistics."""
        self.batches = 0
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalize over the batch in training, by the running statistics otherwise."""
        self.batches += self.training
        momentum = 1.0 / max(1, self.batches) if self.momentum is None else self.momentum
        return functional.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps)


def with_digital_norms(net: nn.Module) -> nn.Module:
    """Return a copy of a network without biases, and with batch norms that stay digital and have neither scale nor shift.

    Examples
    --------
    >>> with_digital_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))[1]
    DigitalNorm()
    """
    made = copy.deepcopy(net)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, BATCH_NORMS):
                setattr(module, name, DigitalNorm(child.num_features, eps=child.eps))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.rpartition(".")[2].startswith("bias") or name.endswith("in_proj_bias"):
                parameter.zero_()
    return made


class MinMaxQuantizer:
    """Rounds what goes into a layer to 2^bits levels between the least and the largest of the tensor; gradients pass straight through.

    Examples
    --------
    >>> MinMaxQuantizer(1)(nn.Identity(), (torch.tensor([0.0, 0.4, 1.0]),))[0]
    tensor([0., 0., 1.])
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the layer's arguments with the first rounded."""
        values = inputs[0]
        low, high = values.detach().amin(), values.detach().amax()
        step = (high - low) / (2**self.bits - 1)
        step = torch.where(step > 0, step, torch.ones_like(step))
        rounded = low + torch.round((values.detach() - low) / step) * step
        return (values + (rounded - values.detach()), *inputs[1:])


def he_scale(differences: Tensor, keep: float) -> float:
    """Return the factor that gives a layer's kept pairs a mean magnitude of sqrt(2 / (keep fan_in)), in weight per siemens.

    Examples
    --------
    >>> he_scale(torch.full((1, 4), 2.0), 0.5)
    0.5
    """
    fan_in = differences[0].numel()
    mean = float(differences.abs().double().mean())
    return math.sqrt(2.0 / (keep * fan_in)) / mean if mean else 1.0
