"""Accuracy under noise against energy: networks on RRAM crossbars, an SRAM macro and digital arrays, in one figure.

The crossbar's errors are those measured on NeuRRAM's cells; the macro's are assumptions (of the preset ``demonstrator``), as none were
published for it; a digital array has none.

``inloop bench codesign_pareto`` searches network and hardware together; writes ``benchmarks/results/codesign_pareto.json`` and ``.png``.
"""

import sys
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import simulator as sim
from benchmarks.codesign_digits import SUBSTITUTE, crossbar, digital, digits, macro, network_of, trained_family
from benchmarks.timing import RESULTS, save
from simulator.figures import encode
from simulator.search import Fidelity, HardwareObjective, Predictor, Space, Sweep

COMMAND = "inloop bench codesign_pareto"
TRIALS, CHIPS = 48, 8
HARDWARE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "RRAM crossbar": (crossbar(), {"design.adc.bits": [4, 5, 6, 8], "design.rows": [64, 128]}, "#D55E00"),
    "SRAM macro": (macro(), {"design.rows": [16, 32, 64, 128]}, "#009E73"),
    "digital array": (digital(16), {"design.rows": [8, 16], "design.columns": [8, 16]}, "#0072B2"),
}
"""Design, what is varied of it, and its color."""
LABELS = {
    "RRAM crossbar": "RRAM crossbar, measured errors",
    "SRAM macro": "SRAM macro, assumed errors",
    "digital array": "digital array, no errors",
}


def search(trials: int = TRIALS, chips: int = CHIPS) -> dict[str, Sweep]:
    """Return the sweep of each family: the network's parameters and the hardware's in one space."""
    family, (inputs, targets) = trained_family(), digits()[1]
    calibration = [(digits()[0][0][:256], digits()[0][1][:256])]
    found = {}
    for name, (design, varied, _) in HARDWARE.items():
        objective = HardwareObjective(network_of(family), design, (inputs, targets), partial=True, calibration=calibration)
        space = Space({**family.space.parameters, **varied})
        strategy, fidelity = Predictor("ridge", candidates=1024), Fidelity()
        found[name] = sim.sweep(objective, space, trials=trials, strategy=strategy, chips=chips, fidelity=fidelity)
        print(f"{name}: {found[name]}", flush=True)
    return found


def draw(found: dict[str, Sweep]) -> Figure:
    """Draw all designs of each family, and its front with 95 % intervals over chips."""
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, sweep in found.items():
        color, frame, front = HARDWARE[name][2], sweep.frame, sweep.front().sort_values("energy_j")
        axes.plot(1e9 * frame["energy_j"], frame["accuracy"], ".", color=color, markersize=3, alpha=0.35)
        errors = [(front["accuracy"] - front["accuracy_low"]).to_numpy(), (front["accuracy_high"] - front["accuracy"]).to_numpy()]
        axes.errorbar(
            1e9 * front["energy_j"], front["accuracy"], yerr=errors, color=color, marker="o", markersize=3.5, capsize=2, linewidth=1,
            drawstyle="steps-post", label=LABELS[name],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("energy of one picture (nJ), terms with published constants", fontsize=8)
    axes.set_ylabel("accuracy on digits, mean over chips with 95 %", fontsize=8)
    axes.set_ylim(bottom=0.5)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def main() -> None:
    """Search, print and save."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else TRIALS
    found = search(trials)
    frame = pd.concat([sweep.front().assign(hardware=name) for name, sweep in found.items()], ignore_index=True)
    # JSON keeps ten decimals: joules would lose their digits.
    frame = frame.assign(energy_nj=1e9 * frame["energy_j"]).drop(columns=["state", "feasible", "front", "failure", "elapsed_s", "energy_j"])
    frame = frame[[name for name in frame if not str(name).endswith(("_j", "_s", "_m2"))]]
    print(f"{SUBSTITUTE}; {trials} designs a family, up to {CHIPS} chips each")
    print(frame[["hardware", "accuracy", "accuracy_low", "accuracy_high", "energy_nj", "chips"]].round(4).to_string(index=False))
    print("energies are lower bounds: terms without published constants are left out, and nodes differ (22 nm, not given, 45 nm);")
    print("a family's front may be read against itself, and against another's only as far as those terms allow")
    (RESULTS / "codesign_pareto.png").write_bytes(encode(draw(found), "png"))
    print(f"written to {save('codesign_pareto', COMMAND, frame)}")


if __name__ == "__main__":
    main()
