"""What a device does for each request."""

from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.link.device import Device, DeviceError, Floats
from simulator.link.messages import Array, Message

Answer = tuple[dict[str, Any], dict[str, Array]]
"""Fields and arrays."""
Handler = Callable[[Any, Message], Answer]
"""Takes a request's fields, checked, and its message."""
PLACEMENT = {"hardware", "macs_per_vector", "arrays", "utilization"}
"""What a device must say of where a layer lies; a note may come with it."""


def checked(answer: object, device: str, kind: str, shape: tuple[int, ...] | None = None) -> Floats:
    """Return what an adapter answered as finite float32, of a shape where that is known.

    Raises
    ------
    DeviceError
        Where it is not of such numbers, in words that name the adapter.

    Examples
    --------
    >>> checked(np.array([[np.nan]]), "probe card", "read_cells")
    Traceback (most recent call last):
    simulator.link.device.DeviceError: the device `probe card` must answer `read_cells` with finite numbers, but some are not
    """
    found = np.asarray(answer)
    if found.dtype.kind != "f":
        raise DeviceError(f"the device `{device}` must answer `{kind}` with float32, but did with {found.dtype} ({type(answer).__name__})")
    if shape is not None and found.shape != shape:
        raise DeviceError(f"the device `{device}` must answer `{kind}` with shape {shape}, but did with {found.shape}")
    numbers = found.astype(np.float32, copy=False)
    # The sum of squares tells at a fraction of the cost; it may overflow where every number is finite.
    flat = numbers.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(numbers).all())
    if not finite:
        raise DeviceError(f"the device `{device}` must answer `{kind}` with finite numbers, but some are not")
    return numbers


def handlers(device: Device) -> dict[str, Handler]:
    """Return what answers each request that needs a device.

    Examples
    --------
    >>> from simulator.link.serving import device_of
    >>> "read_layer" in handlers(device_of("wan_nature_2022"))
    True
    """
    description = device.describe()
    name, cells = description.name, description.cells

    def own(request: Any, message: Message) -> str:
        # Handles are counted by each client, so that what it sends is the same in every session: here they get its session's name.
        return f"{message.session.hex()}/{request.layer}"

    def open_layer(request: Any, message: Message) -> Answer:
        opened = request.model_copy(update={"layer": own(request, message)})
        placement = device.open_layer(opened, message.arrays["weight"])
        if not isinstance(placement, dict) or not PLACEMENT <= set(placement) <= PLACEMENT | {"note"}:
            raise DeviceError(
                f"the device `{name}` must answer `open_layer` with {', '.join(sorted(PLACEMENT))}, but did with {placement!r}"
            )
        return placement, {}

    def read_layer(request: Any, message: Message) -> Answer:
        outputs = device.read_layer(own(request, message), request.state, request.read, message.arrays["inputs"])
        return {}, {"outputs": outputs if device.is_trusted else checked(outputs, name, message.kind)}

    def read_cells(request: Any, message: Message) -> Answer:
        volts = message.arrays["volts"]
        shape = None if cells is None or volts.ndim != 2 else (len(volts), cells.columns)
        return {}, {"amperes": checked(device.read_cells(request.tile, volts, request.read), name, message.kind, shape)}

    def calibrate(request: Any, message: Message) -> Answer:
        warnings, ranges = device.calibrate_layer(own(request, message), request.source)
        return {"warnings": warnings, "ranges": ranges}, {}

    def save(request: Any, message: Message) -> Answer:
        tree, arrays = device.save_layer(own(request, message))
        return {"tree": tree}, arrays

    def nudge(request: Any, message: Message) -> Answer:
        most = None if request.most < 0 else request.most
        spent, left = device.nudge_layer(own(request, message), request.state, request.step, most, message.arrays["change"])
        return {"spent": spent}, {"left": left}

    def nothing(call: Callable[[Any, Message], object]) -> Handler:
        def done(request: Any, message: Message) -> Answer:
            call(request, message)
            return {}, {}

        return done

    return {
        "open_layer": open_layer,
        "close_layer": nothing(lambda r, m: device.close_layer(own(r, m))),
        "observe_layer": nothing(lambda r, m: device.observe_layer(own(r, m), r.first, m.arrays["inputs"])),
        "calibrate_layer": calibrate,
        "program_layer": lambda r, m: ({"state": device.program_layer(own(r, m), r.seed, r.trial)}, {}),
        "read_layer": read_layer,
        "nudge_layer": nudge,
        "age_layer": nothing(lambda r, m: device.age_layer(own(r, m), r.state, r.seconds)),
        "cost_layer": lambda r, m: ({"rows": device.cost_layer(own(r, m), m.arrays["inputs"], m.arrays["outputs"])}, {}),
        "save_layer": save,
        "load_layer": nothing(lambda r, m: device.load_layer(own(r, m), r.tree, m.arrays)),
        "program_cells": nothing(lambda r, m: device.program_cells(r.tile, m.arrays["targets"], r.seed, r.trial)),
        "pulse_cells": nothing(lambda r, m: device.pulse_cells(r.tile, m.arrays["pulses"], r.step)),
        "read_cells": read_cells,
        "age_cells": nothing(lambda r, m: device.age_cells(r.seconds)),
        "reset": nothing(lambda r, m: device.reset()),
    }
