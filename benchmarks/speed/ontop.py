"""Sensitivities, write-verify and point kernels beside what a user would run instead: CPU time on one thread.

``inloop bench speed/ontop`` prints the table and writes it to ``benchmarks/results/speed_ontop.json``.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.timing import cpu_times, save
from kernels.cells import write_verify
from kernels.points import ball_query, farthest_points, group
from kernels.random import Key, uniform

COMMAND = "inloop bench speed/ontop"
CELLS = 11_000_000
KEY = Key.of(seed=0, purpose="benchmark")


def second_derivatives(repetitions: int = 2) -> pd.DataFrame:
    """Time the pass over ResNet-18 on 32 x 32, batch 128, against forward and backward of the same network."""
    model = resnet18()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32, generator=generator), torch.randint(0, 10, (128,), generator=generator)

    def forward_and_backward() -> None:
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()

    candidates = {"forward + backward": forward_and_backward, "second derivatives": lambda: sim.second_derivative(model, (x, y))}
    return cpu_times(candidates, repetitions=repetitions).assign(case="ResNet-18 on 32x32, batch 128", bar="at most 3")


def pulses(repetitions: int = 2) -> pd.DataFrame:
    """Time write-verify of 11 million cells against drawing as many Gaussians as it takes pulses, in NumPy."""
    target = uniform(KEY, CELLS)
    count = int(write_verify(target, 0.05, 0.05, 0.06, KEY).pulses.sum())
    generator = np.random.default_rng(0)
    candidates = {
        f"NumPy, {count / 1e6:.0f} million Gaussians": lambda: generator.standard_normal(count, dtype=np.float32),
        "write-verify": lambda: write_verify(target, 0.05, 0.05, 0.06, KEY),
    }
    return cpu_times(candidates, repetitions=repetitions).assign(case="11 million cells, incremental pulses", bar="below 10")


def vectorized_sampling(points: Tensor, count: int) -> Tensor:
    """Return farthest points as point networks in torch usually find them: one distance to all points a step."""
    batch, total, _ = points.shape
    chosen = torch.zeros(batch, count, dtype=torch.long)
    distance = torch.full((batch, total), 1e10)
    farthest, rows = torch.zeros(batch, dtype=torch.long), torch.arange(batch)
    for place in range(count):
        chosen[:, place] = farthest
        distance = torch.minimum(distance, (points - points[rows, farthest].unsqueeze(1)).square().sum(-1))
        farthest = distance.argmax(-1)
    return chosen


def vectorized_query(points: Tensor, centers: Tensor, radius: float, neighbors: int) -> Tensor:
    """Return the first points within a radius by one matrix of distances and the smallest indices of those within."""
    squared = torch.cdist(centers, points).square()
    indices = torch.arange(points.shape[1]).expand(squared.shape)
    within = torch.where(squared <= radius**2, indices, points.shape[1])
    found = within.topk(neighbors, dim=-1, largest=False, sorted=True).values
    return torch.where(found == points.shape[1], found[..., :1], found)


def clouds(repetitions: int = 5) -> pd.DataFrame:
    """Time farthest-point sampling of 512 of 1,024 points and a ball query of 32 neighbors, batch 64."""
    points = uniform(KEY, (64, 1024, 3))

    def ours() -> Tensor:
        return ball_query(points, group(points, farthest_points(points, 512)), 0.15, 32)

    def torch_only() -> Tensor:
        chosen = vectorized_sampling(points, 512)
        return vectorized_query(points, points.gather(1, chosen.unsqueeze(2).expand(-1, -1, 3)), 0.15, 32)

    found = cpu_times({"inloop": ours, "vectorized torch": torch_only}, repetitions=repetitions)
    return found.assign(case="1,024 points, batch 64", bar="at least 10")


def main() -> None:
    """Measure, print and save."""
    frame = pd.concat([clouds(), pulses(), second_derivatives()], ignore_index=True)
    print(frame[["case", "name", "seconds", "ratio", "ratio_low", "ratio_high", "bar"]].round(3).to_string(index=False))
    print("CPU time over the first of each case, one thread, median of interleaved rounds")
    print(f"written to {save('speed_ontop', COMMAND, frame)}")


if __name__ == "__main__":
    main()
