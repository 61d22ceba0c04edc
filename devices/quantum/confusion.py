"""What is read when a bit string was prepared: the readout matrix, by preparing each string."""

import numpy as np

from devices.quantum.experiment import Bench, Experiment
from devices.quantum.readout import draw_counts
from devices.quantum.sequences import PulseBuilder
from kernels.random import Key


def readout_matrix(bench: Bench, builder: PulseBuilder) -> Experiment:
    """Prepare every bit string by half turns and read it; `confusion` of the result is the matrix ``[read, there]``.

    Without shots the probabilities of the whole chip are given, errors of preparation and relaxation included.

    Parameters
    ----------
    bench
        The chip.
    builder
        Of the chip with calibrated gates; not changed.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> round(float(confusion(readout_matrix(Bench(backend), PulseBuilder(backend)))[0, 0]), 4)
    0.9787
    """
    backend = builder.backend
    strings = [format(index, f"0{backend.count}b") for index in range(2**backend.count)]
    columns: dict[str, np.ndarray] = {}
    for index, string in enumerate(strings):
        sequence = PulseBuilder(backend, builder.gates)
        for q in range(backend.count):
            if index >> q & 1:
                sequence.x(q)
        found = backend.probabilities(sequence.schedule()).numpy()
        if bench.shots is not None:
            key = Key.of(seed=bench.seed, layer="readout", tile=index, purpose="calibration")
            found = draw_counts(found, bench.shots, key) / bench.shots
        columns[string] = np.asarray(found, np.float64)
    x = np.arange(float(len(strings)))
    right = float(np.mean([columns[string][index] for index, string in enumerate(strings)]))
    transmons = tuple(range(backend.count))
    return Experiment("Readout", transmons, "string there", "string read", x, columns, (x, {}), {"assignment_fidelity": right})


def confusion(experiment: Experiment) -> np.ndarray:
    """Return the matrix of a readout experiment, ``[read, there]``.

    Examples
    --------
    >>> x = np.arange(2.0)
    >>> columns = {"0": np.array([0.9, 0.1]), "1": np.array([0.2, 0.8])}
    >>> confusion(Experiment("Readout", (0,), "string there", "string read", x, columns, (x, {}), {"assignment_fidelity": 0.85}))[1, 1]
    np.float64(0.8)
    """
    return np.stack(list(experiment.measured.values()), 1)
