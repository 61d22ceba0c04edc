"""An instrument through VISA: pyvisa-sim in the place of the bench."""

from pathlib import Path

import numpy as np
import pytest

from simulator.link.addresses import LinkError
from simulator.link.client import Connection
from simulator.link.server import Server
from simulator.link.source_measure_unit import SourceMeasureCommands, SourceMeasureUnit
from tests.link_devices import chip_at

BENCH = f"{Path(__file__).with_name('smu.yaml')}@sim"


def test_an_instrument_programs_and_reads_a_cell_over_the_link() -> None:
    with Server(SourceMeasureUnit("GPIB0::8::INSTR", backend=BENCH), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address))
        found = connection.describe()
        assert (found.name, found.identity, found.firmware, found.simulated) == ("ACME CELL PROBE", "serial 42", "1.7", False)
        volts = np.array([[0.1], [-0.2], [0.0]], np.float32)
        for target in (2e-5, 7.5e-5):
            connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": np.full((1, 1), target, np.float32)})
            amperes = connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": volts}).arrays["amperes"]
            assert np.allclose(amperes, volts * target, rtol=1e-6)
        with pytest.raises(LinkError, match="must be from 1e-06 to 0.0001 siemens"):
            connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": np.ones((1, 1), np.float32)})
        with pytest.raises(LinkError, match="at most 0.2 V"):
            connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": 3 * np.ones((1, 1), np.float32)})
        with pytest.raises(LinkError, match="cannot let time pass: wait instead"):
            connection.request("age_cells", {"seconds": 1.0})
        connection.close()


def test_what_an_instrument_refuses_reaches_the_client() -> None:
    commands = SourceMeasureCommands(error="CELL:UNKNOWN?")  # the simulated instrument answers ERROR to what it does not know
    with Server(SourceMeasureUnit("GPIB0::8::INSTR", backend=BENCH, commands=commands), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address))
        with pytest.raises(LinkError, match="the instrument refused 'CELL:PROG 2.000000e-05': ERROR"):
            connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": np.full((1, 1), 2e-5, np.float32)})
        connection.close()


def test_an_instrument_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="must be an instrument that answers, but 'GPIB0::9::INSTR' does not"):
        SourceMeasureUnit("GPIB0::9::INSTR", backend=BENCH)
