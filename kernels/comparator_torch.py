"""A comparator's noise in torch operations, on any device: the bits of `kernels.search_levels` and `kernels.bit_lines`."""

import math

import numpy as np
import torch
from torch import Tensor

from kernels.comparator import PLANE_CHUNKS, candidates
from kernels.philox import CHUNK, NORMAL, WORDS, torch_draws
from kernels.random import Key


def plane(key: Key, index: int, like: Tensor, kind: int = NORMAL) -> Tensor:
    """Return plane `index` of the draws of a stream, one for each element of `like`."""
    return torch_draws(kind, *key.words(), like.numel(), like.device, index * PLANE_CHUNKS).view(like.shape)


def _tail(margins: Tensor, sigma: float) -> Tensor:
    """Return the probability that noise turns around comparisons of these differences."""
    return 0.5 * torch.erfc((margins.double() / sigma).abs() * math.sqrt(0.5))


class _Candidates:
    """Comparisons that may be turned around beyond `NEAR` sigma, as levels that their probability must exceed."""

    def __init__(self, key: Key, like: Tensor, comparisons: int) -> None:
        self.comparisons, self.like = comparisons, like
        self.starts, self.lanes, self.levels = candidates(key, -(-like.numel() // CHUNK), comparisons)

    def of(self, comparison: int) -> tuple[Tensor, Tensor]:
        """Return the elements that are candidates at a comparison, and their levels."""
        pairs = np.arange(comparison, self.starts.size - 1, self.comparisons)
        counts = self.starts[pairs + 1] - self.starts[pairs]
        places = np.concatenate([np.empty(0, np.int64), *(np.arange(self.starts[pair], self.starts[pair + 1]) for pair in pairs)])
        where = np.repeat(np.arange(pairs.size), counts) * CHUNK + self.lanes[places]
        inside = where < self.like.numel()
        device = self.like.device
        return torch.from_numpy(where[inside]).to(device), torch.from_numpy(self.levels[places][inside]).to(device)


class Ranks:
    """Comparisons of conversions of which few are close: the j-th close one of each takes its draw from plane j."""

    def __init__(self, key: Key, like: Tensor, comparisons: int, sigma: float, near: float) -> None:
        self.key, self.sigma, self.near = key, sigma, near
        self.rank = torch.zeros_like(like, dtype=torch.int64)
        self.planes: list[Tensor] = []
        self.candidates = _Candidates(key, like, comparisons)

    def above(self, r: Tensor, comparison: int) -> Tensor:
        """Return which differences the comparator sees as positive."""
        close = r.abs() <= self.near
        noise = torch.zeros_like(r)
        for j in range(int((self.rank * close).max()) + 1 if r.numel() else 0):
            if j == len(self.planes):
                self.planes.append(plane(self.key, j, r))
            noise = torch.where(self.rank == j, self.planes[j], noise)
        up = torch.where(close, r + noise * self.sigma, r) >= 0
        self.rank = self.rank + close
        chosen, levels = self.candidates.of(comparison)
        margin = r.flatten()[chosen]
        up.view(-1)[chosen] ^= (_tail(margin, self.sigma) > levels) & (margin.abs() > self.near)
        return up


def search_shared(r: Tensor, steps: Tensor, sigma: float, near: float, key: Key) -> Tensor:
    """Return the codes of a binary search in which one draw serves each conversion, as `kernels.search_levels` says."""
    count = steps.shape[1]
    shift = plane(key, 0, r) * sigma
    value, code, close_sum = r + shift, torch.zeros_like(r), torch.zeros_like(r)
    close_count = torch.zeros_like(r, dtype=torch.int32)
    for k in range(count):
        margin = value - shift
        close = margin.abs() <= near
        close_sum = close_sum + torch.where(close, margin, 0.0)
        close_count = close_count + close
        up = value >= 0
        code = code + torch.where(up, 1.0, -1.0) * 2.0 ** (count - 1 - k)
        value = torch.where(up, value - steps[0, k], value + steps[1, k])
    margin = value - shift
    second = (close_count == 1) & (margin.abs() <= near)
    turned = (close_sum >= 0) != (close_sum + shift >= 0)
    both = shift * shift >= close_sum * close_sum + margin * margin
    alone = (close_count > 1) | (shift.abs() > near) | (second & (turned | both))
    other_side = torch.where(close_sum >= 0, shift, -shift)
    last = torch.where(second, (margin >= 0) ^ (other_side > margin.abs()), value >= 0)
    code = code + torch.where(last, 0.5, -0.5)
    chosen = _Candidates(key, r, count + 1)
    for k in range(count + 1):
        alone.view(-1)[chosen.of(k)[0]] = True
    _search_alone(r, shift, steps, sigma, near, key, chosen, alone, code)
    return code


def _search_alone(
    r: Tensor, shift: Tensor, steps: Tensor, sigma: float, near: float, key: Key, chosen: _Candidates, alone: Tensor, code: Tensor
) -> None:
    """Search the conversions in `alone` again, comparison by comparison, into their places in `code`."""
    where = alone.flatten().nonzero()[:, 0]
    if not where.numel():
        return
    count, columns = steps.shape[1], where % r.shape[1]
    value, draw = r.flatten()[where], shift.flatten()[where]
    first, total = value.clone(), torch.zeros_like(value)
    rank, turned = torch.zeros_like(where), torch.zeros_like(where, dtype=torch.bool)
    fresh: list[Tensor] = []
    for k in range(count + 1):
        up = value >= 0
        close = value.abs() <= near
        tail = _tail(value, sigma)
        at_first = close & (rank == 0)
        first = torch.where(at_first, value, first)
        turned = torch.where(at_first, (value + draw >= 0) != up, turned)
        flip = at_first & turned
        other = close & (rank > 0)
        if k == count:
            share = other & (rank == 1) & ~turned
            beyond = torch.where(first >= 0, draw, -draw) > value.abs()
            flip = flip | (share & beyond & (_tail(draw, sigma) >= _tail(first, sigma) * tail))
            other = other & ~share
        for j in range(int((rank * other).max())):
            if j == len(fresh):
                fresh.append(plane(key, j + 1, r, WORDS).flatten()[where])
            flip = flip | (other & (rank == j + 1) & ((fresh[j].double() + 0.5) * 2.0**-32 < tail))
        level = torch.full((r.numel(),), 2.0, dtype=torch.float64, device=r.device)
        candidates_here, levels = chosen.of(k)
        level[candidates_here] = levels
        flip = flip | (~close & (tail > level[where]))
        rank = rank + close
        up = up ^ flip
        total = total + torch.where(up, 1.0, -1.0) * 2.0 ** (count - 1 - k)
        if k < count:
            value = torch.where(up, value - steps[0, k, columns], value + steps[1, k, columns])
    code.view(-1)[where] = total
