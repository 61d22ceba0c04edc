"""What a compiled spiking chip is made of: its cores, and how its numbers were rounded."""

from dataclasses import asdict

import pandas as pd
import torch

from simulator.chip import Chip
from simulator.spiking.activity import network_of
from simulator.spiking.cores import CorePlacement, place_on_cores


def cores(chip: Chip) -> CorePlacement:
    """Return where the neurons of a chip lie; print it for a table, or call ``figure()``.

    Parameters
    ----------
    chip
        With one part on spiking cores.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> chip = sim.compile(net, SpikingCore.preset("loihi1"), example_inputs=torch.rand(8, 4), timesteps=4)
    >>> cores(chip).layer_frame["neurons"].tolist()
    [3, 2]
    """
    network = network_of(chip)
    shape = network.shape[1:] if network.coding == "events" else network.shape
    return place_on_cores(network, torch.zeros(1, *shape, device=next(network.parameters()).device))


def roundings(chip: Chip) -> pd.DataFrame:
    """Return how each layer of an integer core was rounded: gain, exponent, errors, thresholds, and what membranes hold.

    Parameters
    ----------
    chip
        With one part on spiking cores; a float core has no rows.

    Returns
    -------
    pandas.DataFrame
        A row for each layer: ``layer``, ``gain``, ``exponent``, ``largest_mantissa``, ``relative_error``, ``threshold``, ``worst_case``,
        ``capacity``, ``largest_bias``, ``bias_error``, ``initial_error`` and ``decay``, as `simulator.spiking.quantizing.Rounding` says.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> chip = sim.compile(net, SpikingCore.preset("loihi1"), example_inputs=torch.rand(8, 4), timesteps=4)
    >>> roundings(chip)["layer"].tolist()
    ['1', '2']
    """
    network = network_of(chip)
    network._prepare()
    held = network._integers
    frame = pd.DataFrame([] if held is None else [asdict(one) for one in held.roundings])
    return frame.astype({name: "Int64" for name in ("largest_mantissa", "threshold", "worst_case", "largest_bias") if name in frame})
