"""Bare cells of a chip elsewhere: what is programmed is read, by Ohm and Kirchhoff, and what does not fit is refused in a line."""

from typing import Any

import numpy as np
import pytest
import torch

import simulator as sim
from devices import BareTiles, ComposedCell, IdealCell, RemoteChip
from devices.rram import ConstantSpread, PowerDrift, ProportionalSpread
from simulator.link.addresses import LinkError
from simulator.link.server import Server
from simulator.link.serving import serve
from tests.link_devices import CountingCells

IDEAL = BareTiles(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=1e-4), rows=4, columns=3, tiles=2)
TARGETS = np.linspace(1e-6, 1e-4, 12).reshape(4, 3)


def test_currents_are_voltages_times_conductances_of_their_tile() -> None:
    volts = np.random.default_rng(0).uniform(-0.2, 0.2, (5, 4))
    with serve(IDEAL, "tcp://127.0.0.1:0", block=False) as server, sim.RemoteCells(server.address) as cells:
        assert (cells.limits.tiles, cells.limits.rows, cells.limits.columns) == (2, 4, 3) and cells.description.simulated
        cells.program(TARGETS)
        cells.program(TARGETS[::-1], tile=1)
        for tile, conductances in enumerate((TARGETS, TARGETS[::-1])):
            found = cells.read(volts, tile=tile)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, volts @ conductances, rtol=0, atol=1e-6 * 1e-4)
        assert cells.status()["device"]["programmed_tiles"] == 2
        assert (cells.programmings, cells.reads) == (2, 2)
        cells.reset()
        with pytest.raises(LinkError, match="must be programmed before it is read"):
            cells.read(volts)


def test_each_programming_and_each_read_has_errors_of_its_own_and_time_passes() -> None:
    cell = ComposedCell(
        g_min_siemens=1e-6,
        g_max_siemens=1e-4,
        cycle_spread=ConstantSpread(sigma_siemens=1e-6),
        read_noise=ProportionalSpread(fraction=0.01),
        retention=PowerDrift(start_seconds=1.0, mean_intercept=0.1, sigma_intercept=0.0),
    )
    with serve(IDEAL.replace(cell=cell), "tcp://127.0.0.1:0", block=False) as server:

        def session(seed: int) -> list[np.ndarray[Any, Any]]:
            with sim.RemoteCells(RemoteChip(address=server.address), seed=seed) as cells:
                found = []
                for _ in range(2):
                    cells.program(TARGETS)
                    found += [cells.read(0.1 * np.eye(4)) for _ in range(2)]
                cells.age(1e4)
                return [*found, cells.read(0.1 * np.eye(4))]

        first, again, other = session(0), session(0), session(1)
        assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
        everything = [one.tobytes() for one in (*first, *other)]
        assert len(set(everything)) == len(everything)
        # A power law of exponent 0.1 over four decades leaves 10^-0.4 of the conductance.
        assert first[-1].sum() / first[-2].sum() == pytest.approx(10**-0.4, rel=0.03)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda cells: cells.program([[1e-5, np.nan]]), "Argument `targets` must be finite numbers of two axes"),
        (lambda cells: cells.program(1e-5), "Argument `targets` must be finite numbers of two axes, but got shape"),
        (lambda cells: cells.program([[1.0], [2.0, 3.0]]), "Argument `targets` must be numbers of two axes"),
        (lambda cells: cells.read("volts"), "Argument `volts` must be numbers of two axes"),
        (lambda cells: cells.pulse(np.ones((4, 3))), "Argument `pulses` must be integers, but got float64"),
        (lambda cells: cells.read(np.zeros((1, 4)), tile=2), "Argument `tile` must be from 0 to below 2"),
        (lambda cells: cells.read(np.zeros((1, 4)), tile=-1), "Argument `tile` must be an integer of at least 0, but got -1"),
        (lambda cells: cells.read(np.zeros((1, 4)), tile=0.5), "Argument `tile` must be an integer of at least 0, but got 0.5"),
        (lambda cells: cells.program(TARGETS + 1j), "Argument `targets` must be numbers of two axes.*complex128 are no real numbers"),
        (lambda cells: cells.program(torch.zeros(4, 3, requires_grad=True)), "Argument `targets` must be numbers of two axes"),
        (lambda cells: cells.pulse([[1], [2, 3]]), "Argument `pulses` must be integers of two axes"),
        (lambda cells: cells.age(-1.0), "Argument `seconds` must be a finite number of at least 0, but got -1.0"),
        (lambda cells: cells.age("x"), "Argument `seconds` must be a finite number of at least 0, but got 'x'"),
        (lambda cells: sim.RemoteCells("tcp://127.0.0.1:9", seed=-1), "Argument `seed` must be an integer of at least 0, but got -1"),
        (lambda cells: sim.characterise("tcp://127.0.0.1:9", budget=3), "Argument `budget` must be a Budget or None, but got a int"),
        (lambda cells: sim.characterise("tcp://127.0.0.1:9", folder=3), "Argument `folder` must be a path or None, but got a int"),
    ],
)
def test_what_is_no_array_of_the_tile_is_refused_here(call: Any, line: str) -> None:
    with serve(IDEAL, "tcp://127.0.0.1:0", block=False) as server, sim.RemoteCells(server.address) as cells:
        with pytest.raises(ValueError, match=line):
            call(cells)
        assert cells.programmings == 0


def test_what_the_chip_refuses_is_told_in_its_words_and_counts_no_programming() -> None:
    with serve(IDEAL, "tcp://127.0.0.1:0", block=False) as server, sim.RemoteCells(server.address) as cells:
        with pytest.raises(LinkError, match="must be from 1e-06 to 0.0001 S, but go"):
            cells.program(TARGETS * 2)
        with pytest.raises(LinkError, match=r"must be finite, of shape \(4, 3\)"):
            cells.program(TARGETS.T)
        with pytest.raises(LinkError, match="states no law of pulses"):
            cells.pulse(np.ones((4, 3), int))
        assert cells.programmings == cells.pulsings == 0


def test_a_chip_without_cells_is_refused_and_the_lease_given_back() -> None:
    with (
        serve("eyeriss_like", "tcp://127.0.0.1:0", block=False) as server,
        pytest.raises(ValueError, match="must give access to its cells"),
    ):
        sim.RemoteCells(server.address)
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        with sim.RemoteCells(server.address) as cells:
            cells.program(TARGETS)
        with pytest.raises(ValueError, match="were given back by close"):
            cells.status()
        with sim.RemoteCells(server.address) as other:
            assert other.status()["lease"]["holder"] is None
