"""The closed forms of a systolic array beside ZigZag, which searches mappings and counts stalls: an optional cross-check.

ZigZag lives in a virtual environment of its own (``python -m venv zigzag && zigzag/bin/pip install zigzag-dse==3.9.1 six``), and is
asked in another process. Answers are cached by the content of the question, since a layer takes it a second and the closed forms
microseconds: ``inloop bench zigzag PATH/TO/zigzag/bin/python``.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.timing import save
from devices import MemoryTier, SystolicArray
from devices.digital import Product, product_cost
from simulator.costing import cost_frame, totals
from simulator.progress import track

COMMAND = "inloop bench zigzag ZIGZAG_PYTHON"
CACHE = Path(".cache") / "zigzag"
SECONDS = 600

PEER = """
import json, logging, sys, tempfile, time
from pathlib import Path
from zigzag.api import get_hardware_performance_zigzag
task = json.load(sys.stdin)
logging.disable(logging.CRITICAL)
with tempfile.TemporaryDirectory() as folder:
    files = [str(Path(folder) / f"{name}.yaml") for name in ("accelerator", "mapping")]
    for path, name in zip(files, ("accelerator", "mapping")):
        Path(path).write_text(json.dumps(task[name]))  # JSON is YAML
    start = time.process_time()
    answer = get_hardware_performance_zigzag(
        task["workload"], *files, opt="latency", dump_folder=folder, lpf_limit=6, loma_show_progress_bar=False
    )
    seconds = time.process_time() - start
print("RESULT " + json.dumps({"energy_j": float(answer[0]) * 1e-12, "cycles": float(answer[1]), "seconds": seconds}))
"""
"""What runs in ZigZag's environment: a question on its input, the answer on its output."""

ARRAY = SystolicArray(
    rows=32,
    columns=32,
    dataflow="weight_stationary",
    frequency_hertz="1 GHz",
    joule_per_mac="0.04 pJ",
    memories=(
        MemoryTier(name="SRAM", capacity_bytes=2**21, bandwidth_bytes_per_s=256e9, joule_per_byte=416.16e-12 / 256),
        MemoryTier(name="DRAM", bandwidth_bytes_per_s=8e9, joule_per_byte=700e-12 / 8),
    ),
)
"""The constants of ZigZag's own example ``tpu_like`` (2 MB SRAM, DRAM of 64 bits a cycle), with sums that leave the array for the SRAM."""

LAYERS = {
    "ResNet-18 conv2_x": Product(3136, 576, 64),
    "ResNet-18 conv3_x": Product(784, 1152, 128),
    "ResNet-18 conv4_x": Product(196, 2304, 256),
    "ResNet-18 conv5_x": Product(49, 4608, 512),
    "ResNet-18 fc": Product(1, 512, 1000),
    "1x1, 64 -> 64 on 56 x 56": Product(3136, 64, 64),
}


def question(array: SystolicArray, product: Product) -> dict[str, Any]:
    """Return a weight-stationary array with two memories, and a product on it, in ZigZag's words.

    Parameters
    ----------
    array
        Dataflow ``weight_stationary``, with two memories: the one at its edge, and what holds everything.
    product
        The matrix product.
    """

    def port(name: str, kind: str, bits: tuple[int, int], *allocation: str) -> dict[str, Any]:
        return {"name": name, "type": kind, "bandwidth_min": bits[0], "bandwidth_max": bits[1], "allocation": list(allocation)}

    def memory(bits: int, read_pj: float, operands: list[str], ports: list[dict[str, Any]], served: list[str]) -> dict[str, Any]:
        costs = {"r_cost": read_pj, "w_cost": read_pj}
        return {"size": bits, **costs, "area": 0, "latency": 1, "operands": operands, "ports": ports, "served_dimensions": served}

    edge, outer = array.memories
    clock = array.frequency_hertz or 1.0
    edge_bits = round(8 * (edge.bandwidth_bytes_per_s or 0.0) / clock)
    outer_bits = round(8 * (outer.bandwidth_bytes_per_s or 0.0) / clock)
    word, total = array.weight_bits or 16, array.accumulator_bits
    sums = [
        port("r_port_1", "read", (total, total), "O, tl"),
        port("r_port_2", "read", (total, total), "O, th"),
        port("w_port_1", "write", (total, total), "O, fh"),
        port("w_port_2", "write", (total, total), "O, fl"),
    ]
    memories = {
        "weights": memory(
            word, 0.0, ["I2"], [port("r_port_1", "read", (word, word), "I2, tl"), port("w_port_1", "write", (word, word), "I2, fh")], []
        ),
        "sums": memory(total, 0.0, ["O"], sums, ["D2"]),
        "edge": memory(
            8 * (edge.capacity_bytes or 2**40),
            (edge.joule_per_byte or 0.0) * edge_bits / 8 * 1e12,
            ["I1", "O"],
            [
                port("r_port_1", "read", (64, edge_bits), "I1, tl", "O, tl", "O, th"),
                port("w_port_1", "write", (64, edge_bits), "I1, fh", "O, fh", "O, fl"),
            ],
            ["D1", "D2"],
        ),
        "outer": memory(
            10**10,
            (outer.joule_per_byte or 0.0) * outer_bits / 8 * 1e12,
            ["I1", "I2", "O"],
            [
                port(
                    "rw_port_1", "read_write", (outer_bits, outer_bits),
                    "I1, fh", "I1, tl", "I2, fh", "I2, tl", "O, fh", "O, tl", "O, fl", "O, th",
                )
            ],
            ["D1", "D2"],
        ),
    }  # fmt: skip
    units = {
        "unit_energy": (array.joule_per_mac or 0.0) * 1e12,
        "unit_area": 1,
        "dimensions": ["D1", "D2"],
        "sizes": [array.columns, array.rows],
    }
    spatial = {"D1": [f"K, {min(array.columns, product.n)}"], "D2": [f"C, {min(array.rows, product.k)}"]}
    layer = {
        "id": 0, "name": "product", "operator_type": "Gemm", "equation": "O[b][k]+=W[k][c]*I[b][c]", "loop_dims": ["B", "K", "C"],
        "loop_sizes": [product.m, product.n, product.k], "operand_source": {"I": 0, "W": 0},
        "operand_precision": {"W": word, "I": array.input_bits, "O": total, "O_final": total},
    }  # fmt: skip
    return {
        "accelerator": {"name": "systolic", "memories": memories, "operational_array": units},
        "mapping": [{"name": "default", "spatial_mapping": spatial, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}],
        "workload": [layer],
    }


def ask(python: str | Path, task: Mapping[str, Any], cache: Path = CACHE) -> dict[str, float]:
    """Return ZigZag's answer to a question, from the cache where the same question was asked before.

    Parameters
    ----------
    python
        The interpreter of ZigZag's environment.
    task
        From `question`.
    cache
        Folder of answers, one file each, named by the question's content.

    Raises
    ------
    RuntimeError
        If the process fails or gives no answer; the last line of what it wrote is in the message.
    """
    text = json.dumps(task)  # in order: ZigZag takes memories from the array outwards
    path = cache / f"{hashlib.sha256((PEER + text).encode()).hexdigest()[:16]}.json"
    if path.exists():
        found: dict[str, float] = json.loads(path.read_text())
        return found
    done = subprocess.run([str(python), "-c", PEER], input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
    answers = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not answers:
        last = (done.stderr.strip().splitlines() or ["nothing was written"])[-1]
        raise RuntimeError(f"ZigZag in {python} must answer, but ended with status {done.returncode}: {last:.200}")
    answer: dict[str, float] = json.loads(answers[-1])
    cache.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(answer))
    temporary.replace(path)
    return answer


def measure(python: str | Path, cache: Path = CACHE) -> pd.DataFrame:
    """Return a row per layer: cycles, energy and time to compute them, of the closed forms and of ZigZag, with their ratios."""
    rows = []
    for name, product in track(LAYERS.items(), len(LAYERS), "layers"):
        start = time.process_time()
        total = totals(cost_frame(product_cost(ARRAY, name, product)))
        seconds = time.process_time() - start
        latency, energy = total["latency_s"].value, total["energy_j"].value
        assert latency is not None and energy is not None and ARRAY.frequency_hertz is not None
        cycles, peer = latency * ARRAY.frequency_hertz, ask(python, question(ARRAY, product), cache)
        rows.append(
            {
                "layer": name,
                "cycles": cycles,
                "ZigZag cycles": peer["cycles"],
                "cycles ratio": cycles / peer["cycles"],
                "energy_j": energy,
                "ZigZag energy_j": peer["energy_j"],
                "energy ratio": energy / peer["energy_j"],
                "seconds": seconds,
                "ZigZag seconds": peer["seconds"],
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Ask for every layer, print and save."""
    python = sys.argv[1] if len(sys.argv) > 1 else None
    if not python or not Path(python).exists():
        raise SystemExit(
            f"ZigZag's python must be given, but got {python}; install it on its own (python -m venv zigzag; zigzag/bin/pip install "
            f"zigzag-dse==3.9.1 six) and call: {COMMAND}"
        )
    frame = measure(python)
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print("ratio: closed form over ZigZag, which chooses the order of loops and counts the stalls of each memory port")
    print(f"written to {save('zigzag', COMMAND, frame)}")


if __name__ == "__main__":
    main()
