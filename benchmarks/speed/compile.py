"""Compile time, peak memory before programming, and the share of multiply-accumulates on hardware.

``inloop bench speed/compile`` prints the table and writes it to ``benchmarks/results/speed_compile.json``. Each model is built
from its configuration in a process of its own, so that peak memory is that of one model; nothing is downloaded. Sizes are those of
transformers' default configurations, but for LLaMA (1.1 billion parameters) and Mixtral (eight experts of a small model).
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
IMAGE = {"pixel_values": torch.full((1, 3, 224, 224), 0.5)}
TOKENS = {"input_ids": torch.arange(16)[None]}
SIZES = {
    "LLaMA 1B": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                 "num_key_value_heads": 4},
    "Mixtral, small": {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
                       "num_key_value_heads": 2},
    "Whisper": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}  # fmt: skip
MODELS = {
    "ResNet-50": ("ResNetForImageClassification", IMAGE),
    "MobileNetV2": ("MobileNetV2ForImageClassification", IMAGE),
    "ConvNeXt": ("ConvNextForImageClassification", IMAGE),
    "ViT": ("ViTForImageClassification", IMAGE),
    "Swin": ("SwinForImageClassification", IMAGE),
    "PVT": ("PvtForImageClassification", IMAGE),
    "VideoMAE": ("VideoMAEForVideoClassification", {"pixel_values": torch.full((1, 16, 3, 224, 224), 0.5)}),
    "BERT": ("BertModel", TOKENS),
    "GPT-2": ("GPT2LMHeadModel", TOKENS),
    "Whisper": (
        "WhisperForConditionalGeneration",
        {"input_features": torch.full((1, 80, 3000), 0.5), "decoder_input_ids": torch.arange(4)[None]},
    ),
    "Mixtral, small": ("MixtralForCausalLM", TOKENS),
    "LLaMA 1B": ("LlamaForCausalLM", TOKENS),
}
"""Name to a class of transformers and the keyword arguments of one call."""


def build(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return a model by name with random weights, and the keyword arguments of one call."""
    import transformers

    kind, inputs = MODELS[name]
    config = f"{kind.split('For', maxsplit=1)[0].removesuffix('Model').removesuffix('LMHead')}Config"
    return getattr(transformers, kind)(getattr(transformers, config)(**SIZES.get(name, {}))), inputs


def one(name: str) -> dict[str, float | str]:
    """Compile one model and return its row; memory is resident memory in bytes."""
    model, inputs = build(name)
    model.eval()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start, busy = time.perf_counter(), time.process_time()
    chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_kwargs=inputs)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table = chip.coverage
    folded = int(table["hardware"].str.startswith("folded").sum())
    share = float(table.loc[table["hardware"] != "host", "macs"].sum() / table["macs"].sum())
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "cpu_seconds": busy,
        "weight_bytes": weights,
        "peak_before_bytes": before,
        "peak_bytes": peak,
        "peak_over_weights": peak / weights,
        "macs": chip.macs,
        "macs_on_hardware": share,
        "batch_norms_folded": folded,
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
