"""`nn.RNN`, `nn.LSTM`, `nn.GRU` and their cells as wholes: the weights as linear layers, the gates digital."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from simulator.lowering.attention import linear_with

State = tuple[Tensor, ...]
"""Hidden state, and the cell state of an LSTM."""

CELLS: dict[type[nn.Module], str] = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU", nn.RNNCell: "RNN"}


def step(mode: str, from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """Return the next state from the two products of a step, before any projection.

    Parameters
    ----------
    mode
        ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
    from_input, from_hidden
        Shape (batch, gates x hidden): both products with their biases, gates in torch's order.
    state
        Shape (batch, hidden) each.

    Examples
    --------
    >>> step("RNN_RELU", torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), (torch.zeros(1, 2),))
    (tensor([[1.5000, 0.0000]]),)
    """
    if mode == "LSTM":
        i, f, g, o = (from_input + from_hidden).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
    if mode == "GRU":
        input_reset, input_update, input_new = from_input.chunk(3, dim=-1)
        hidden_reset, hidden_update, hidden_new = from_hidden.chunk(3, dim=-1)
        update = torch.sigmoid(input_update + hidden_update)
        new = torch.tanh(input_new + torch.sigmoid(input_reset + hidden_reset) * hidden_new)
        return (new + update * (state[0] - new),)
    total = from_input + from_hidden
    return (torch.relu(total) if mode == "RNN_RELU" else torch.tanh(total),)


class Recurrent(nn.Module):
    """`nn.LSTM`, `nn.GRU` or `nn.RNN` with its weights as linear layers, so that each can lie on hardware.

    All steps of a layer multiply the input weights in one call; the hidden weights are read at every step.

    Parameters
    ----------
    layer
        The torch layer; its parameters are shared.

    Examples
    --------
    >>> original = nn.GRU(3, 4, bidirectional=True)
    >>> x = torch.rand(7, 2, 3)
    >>> bool(torch.allclose(Recurrent(original)(x)[0], original(x)[0], atol=1e-6))
    True
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.mode = layer.mode
        self.num_layers = layer.num_layers
        self.hidden_size = layer.hidden_size
        self.output_size = layer.proj_size or layer.hidden_size
        self.batch_first = layer.batch_first
        self.dropout = layer.dropout
        self.directions = 2 if layer.bidirectional else 1
        self.suffixes = [f"l{k}{'_reverse' if d else ''}" for k in range(self.num_layers) for d in range(self.directions)]
        for suffix in self.suffixes:
            for part in ("ih", "hh"):
                bias = getattr(layer, f"bias_{part}_{suffix}") if layer.bias else None
                self.add_module(f"{part}_{suffix}", linear_with(getattr(layer, f"weight_{part}_{suffix}"), bias))
            if layer.proj_size:
                self.add_module(f"hr_{suffix}", linear_with(getattr(layer, f"weight_hr_{suffix}"), None))
        self.training = layer.training

    def forward(
        self, inputs: Tensor | PackedSequence, state: Tensor | State | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        """Run as the torch layer does; padded, packed and unbatched sequences have the same shapes."""
        packed = inputs if isinstance(inputs, PackedSequence) else None
        unbatched = False
        if packed is not None:
            data, sizes = packed.data, packed.batch_sizes.tolist()
        else:
            assert isinstance(inputs, Tensor)
            unbatched = inputs.dim() == 2
            padded = inputs.unsqueeze(1) if unbatched else inputs.transpose(0, 1) if self.batch_first else inputs
            data, sizes = padded.flatten(0, 1), [padded.shape[1]] * padded.shape[0]
        states = self._initial(state, sizes[0], data, unbatched, None if packed is None else packed.sorted_indices)
        final: list[State] = []
        for k in range(self.num_layers):
            outputs = []
            for d in range(self.directions):
                index = k * self.directions + d
                output, last = self._run(self.suffixes[index], data, sizes, tuple(part[index] for part in states), bool(d))
                outputs.append(output)
                final.append(last)
            data = torch.cat(outputs, dim=-1)
            if self.dropout and self.training and k < self.num_layers - 1:
                data = functional.dropout(data, self.dropout)
        stacked = tuple(torch.stack(parts) for parts in zip(*final, strict=True))
        if packed is not None:
            if packed.unsorted_indices is not None:
                stacked = tuple(part.index_select(1, packed.unsorted_indices) for part in stacked)
            return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), self._external(stacked)
        result = data.unflatten(0, (len(sizes), sizes[0]))
        if unbatched:
            return result.squeeze(1), self._external(tuple(part.squeeze(1) for part in stacked))
        return result.transpose(0, 1) if self.batch_first else result, self._external(stacked)

    def _initial(self, state: Tensor | State | None, batch: int, like: Tensor, unbatched: bool, order: Tensor | None) -> State:
        count = self.num_layers * self.directions
        if state is None:
            hidden = like.new_zeros(count, batch, self.output_size)
            return (hidden, like.new_zeros(count, batch, self.hidden_size)) if self.mode == "LSTM" else (hidden,)
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        if unbatched:
            parts = tuple(part.unsqueeze(1) for part in parts)
        return parts if order is None else tuple(part.index_select(1, order) for part in parts)

    def _run(self, suffix: str, data: Tensor, sizes: list[int], state: State, backward: bool) -> tuple[Tensor, State]:
        """Run one direction of one layer; `data` holds the steps one after the other, `sizes` how many sequences each still has."""
        from_inputs = self.get_submodule(f"ih_{suffix}")(data).split(sizes)
        hidden_weights = self.get_submodule(f"hh_{suffix}")
        projection = self.get_submodule(f"hr_{suffix}") if self.output_size != self.hidden_size else None
        outputs: list[Tensor] = [data] * len(sizes)
        for t in reversed(range(len(sizes))) if backward else range(len(sizes)):
            active = sizes[t]
            running = tuple(part[:active] for part in state)
            new = step(self.mode, from_inputs[t], hidden_weights(running[0].contiguous()), running)
            if projection is not None:
                new = (projection(new[0]), *new[1:])
            # Sequences that are over, or have not begun in the backward direction, keep their state.
            state = tuple(torch.cat((n, old[active:])) if active < len(old) else n for n, old in zip(new, state, strict=True))
            outputs[t] = new[0]
        return torch.cat(outputs), state

    def _external(self, state: State) -> Tensor | State:
        return state if self.mode == "LSTM" else state[0]


class RecurrentCell(nn.Module):
    """`nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell` with its weights as linear layers.

    Examples
    --------
    >>> original = nn.LSTMCell(3, 4)
    >>> x = torch.rand(2, 3)
    >>> bool(torch.allclose(RecurrentCell(original)(x)[1], original(x)[1], atol=1e-6))
    True
    """

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        mode = CELLS[type(cell)]
        self.mode = f"RNN_{cell.nonlinearity.upper()}" if isinstance(cell, nn.RNNCell) else mode
        self.hidden_size = cell.hidden_size
        self.ih = linear_with(cell.weight_ih, cell.bias_ih if cell.bias else None)
        self.hh = linear_with(cell.weight_hh, cell.bias_hh if cell.bias else None)
        self.training = cell.training

    def forward(self, inputs: Tensor, state: Tensor | State | None = None) -> Tensor | State:
        """Run one step as the torch cell does."""
        batched = inputs if inputs.dim() == 2 else inputs.unsqueeze(0)
        if state is None:
            zero = batched.new_zeros(len(batched), self.hidden_size)
            parts: State = (zero, zero) if self.mode == "LSTM" else (zero,)
        else:
            parts = (state,) if isinstance(state, Tensor) else tuple(state)
            parts = parts if inputs.dim() == 2 else tuple(part.unsqueeze(0) for part in parts)
        new = step(self.mode, self.ih(batched), self.hh(parts[0]), parts)
        new = new if inputs.dim() == 2 else tuple(part.squeeze(0) for part in new)
        return new if self.mode == "LSTM" else new[0]
