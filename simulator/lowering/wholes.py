"""Layers of torch that hide their weights, exchanged for ones that show them."""

from torch import nn

from simulator.lowering.attention import MultiheadAttention
from simulator.lowering.recurrent import CELLS, Recurrent, RecurrentCell
from simulator.lowering.transposed import TransposedConvolution
from simulator.weight_layers import NotMappedError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_whole(module: nn.Module) -> bool:
    """Return whether a module reads the weights of the modules inside it, or hides its own, and is lowered as a whole.

    Examples
    --------
    >>> is_whole(nn.LSTM(2, 2)), is_whole(nn.Linear(2, 2))
    (True, False)
    """
    return "forward" not in vars(module) and isinstance(module, (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, *TRANSPOSED))


def show_weights(module: nn.Module) -> nn.Module:
    """Return a module that does the same with its weights as linear layers and convolutions.

    Raises
    ------
    NotMappedError
        With the reason, where that is not possible.

    Examples
    --------
    >>> [name for name, _ in show_weights(nn.MultiheadAttention(8, 2)).named_children()]
    ['q_proj', 'k_proj', 'v_proj', 'out_proj']
    """
    kind = type(module)
    if isinstance(module, nn.MultiheadAttention):
        _require_own_forward(kind, nn.MultiheadAttention)
        return MultiheadAttention(module)
    if isinstance(module, TRANSPOSED):
        return TransposedConvolution(module)
    if isinstance(module, nn.RNNBase) and kind in (nn.RNN, nn.LSTM, nn.GRU):
        return Recurrent(module)
    if isinstance(module, nn.RNNCellBase) and kind in CELLS:
        return RecurrentCell(module)
    raise NotMappedError(f"{kind.__name__} is a variant that is not known: digital")


def _require_own_forward(kind: type[nn.Module], base: type[nn.Module]) -> None:
    if kind.forward is not base.forward:
        raise NotMappedError(f"{kind.__name__} has a forward of its own: digital")
