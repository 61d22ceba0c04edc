"""Compile time, peak memory before programming, and the share of multiply-accumulates on hardware.

``inloop bench speed/compile`` prints the table and writes it to ``benchmarks/results/speed_compile.json``. Each model is built
from its configuration in a process of its own, so that peak memory is that of one model; nothing is downloaded.
"""

import json
import resource
import subprocess
import sys
import time

import pandas as pd
import torch
from torch import nn

import simulator as sim
from benchmarks.timing import save
from devices import RRAMCrossbar

COMMAND = "inloop bench speed/compile"
MODELS = ("ResNet-50", "LLaMA 1B")


def build(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return a model by name with random weights, and the keyword arguments of one call."""
    import transformers

    if name == "ResNet-50":
        return transformers.ResNetForImageClassification(transformers.ResNetConfig()), {"pixel_values": torch.full((1, 3, 224, 224), 0.5)}
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.arange(16)[None]}


def one(name: str) -> dict[str, float | str]:
    """Compile one model and return its row; memory is resident memory in bytes."""
    model, inputs = build(name)
    model.eval()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_kwargs=inputs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table = chip.coverage
    share = float(table.loc[table["hardware"] != "host", "macs"].sum() / table["macs"].sum())
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "weight_bytes": weights,
        "peak_before_bytes": before,
        "peak_bytes": peak,
        "peak_over_weights": peak / weights,
        "macs_on_hardware": share,
        "arrays": int(table["arrays"].sum()),
    }


def main() -> None:
    """Measure each model in its own process, print and save."""
    rows = []
    for name in MODELS:
        done = subprocess.run([sys.executable, "-m", "benchmarks.speed.compile", name], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    frame = pd.DataFrame(rows)
    print(frame.to_string(index=False))
    print(f"written to {save('speed_compile', COMMAND, frame)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(sys.argv[1])))
    else:
        main()
