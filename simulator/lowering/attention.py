"""`nn.MultiheadAttention` as a whole: four projections with weights, and products of activations in between."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class MultiheadAttention(nn.Module):
    """The layer of the same name in torch with its projections as layers of their own, so that each can lie on hardware.

    The products of queries with keys and of weights with values are between activations and stay digital.

    Parameters
    ----------
    attention
        The torch layer; its parameters are shared.

    Examples
    --------
    >>> original = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    >>> x = torch.rand(3, 5, 8)
    >>> bool(torch.allclose(MultiheadAttention(original)(x, x, x)[0], original(x, x, x)[0], atol=1e-6))
    True
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim = attention.embed_dim
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        width = self.embed_dim
        packed = attention.in_proj_weight
        parts = (
            (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
            if packed is None
            else tuple(_part(packed, i, width) for i in range(3))
        )
        bias = attention.in_proj_bias
        for i, (name, weight) in enumerate(zip(("q_proj", "k_proj", "v_proj"), parts, strict=True)):
            assert weight is not None
            part = None if bias is None else _part(bias, i, width)
            self.add_module(name, linear_with(weight, part))
        self.out_proj = linear_with(attention.out_proj.weight, attention.out_proj.bias)
        self.bias_k: nn.Parameter | None
        self.bias_v: nn.Parameter | None
        self.register_parameter("bias_k", None if attention.bias_k is None else _parameter(attention.bias_k))
        self.register_parameter("bias_v", None if attention.bias_v is None else _parameter(attention.bias_v))
        self.add_zero_attn = attention.add_zero_attn
        self.training = attention.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention.forward` does; arguments, shapes and returned weights are the same."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (part.unsqueeze(0) for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        batch, length = query.shape[:2]
        sources = key.shape[1]

        def heads(projection: nn.Module, inputs: Tensor) -> Tensor:
            projected: Tensor = projection(inputs)
            return projected.reshape(batch, -1, self.num_heads, self.head_dim).transpose(1, 2)

        q, k, v = (heads(self.get_submodule(name), part) for name, part in (("q_proj", query), ("k_proj", key), ("v_proj", value)))
        k, v = self._appended(k, self.bias_k), self._appended(v, self.bias_v)
        mask = self._mask(attn_mask, key_padding_mask, batch, length, sources, query.dtype)
        if mask is not None:  # nobody is kept from what was appended
            mask = functional.pad(mask, (0, k.shape[2] - sources))
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            attended = functional.dropout(weights, dropout, self.training) @ v
        else:
            attended = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _appended(self, projected: Tensor, learned: Tensor | None) -> Tensor:
        """Return keys or values, shape (batch, heads, sources, width), with a learned one and one of zeros behind them where there are."""
        shape = len(projected), self.num_heads, 1, self.head_dim
        parts = [projected]
        if learned is not None:
            parts.append(learned.reshape(1, *shape[1:]).expand(shape))
        if self.add_zero_attn:
            parts.append(projected.new_zeros(shape))
        return torch.cat(parts, 2) if len(parts) > 1 else projected

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, batch: int, length: int, sources: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Return both masks as one to add to the scores, of shape broadcastable to (batch, heads, length, sources)."""
        total: Tensor | None = None
        if attn_mask is not None:
            total = _additive(attn_mask, dtype)
            if total.dim() == 3:
                total = total.reshape(batch, self.num_heads, length, sources)
        if padding is not None:
            keys = _additive(padding, dtype).reshape(batch, 1, 1, sources)
            total = keys if total is None else total + keys
        return total


def linear_with(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer around parameters that exist.

    Examples
    --------
    >>> linear_with(nn.Parameter(torch.zeros(3, 2)), None)
    Linear(in_features=2, out_features=3, bias=False)
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.register_parameter("weight", _parameter(weight))
    layer.register_parameter("bias", None if bias is None else _parameter(bias))
    return layer


def _part(packed: nn.Parameter, index: int, width: int) -> nn.Parameter:
    # Through `data`, which counts its writes anew: a write to one part does not count as one to the others.
    return nn.Parameter(packed.data[index * width : (index + 1) * width], packed.requires_grad)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
