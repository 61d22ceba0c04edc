"""Shapes and dtypes written with jaxtyping are checked in every test."""

from collections.abc import Iterator

import hypothesis
import jaxtyping
import numba
import pytest
import torch

from tests import shapes

# How long an example takes is the machine's, and no fault of what it tests.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# The hook replaces functions by checked ones, which Numba cannot compile: kernels are checked when they run as plain Python.
shapes.install(["simulator", "devices", *(["kernels"] if numba.config.DISABLE_JIT else [])])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace what tests see, not what examples and long tests pass through, and kernels only as plain Python: tracing takes its time."""
    for item in items:
        compiled = item.get_closest_marker("kernels") is not None and not numba.config.DISABLE_JIT
        if compiled or item.get_closest_marker("long") is not None or isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.no_cover)


class OneSeed:
    """Begins each test and example at one seed of torch's global generator, which layers of torch draw their weights from."""

    def pytest_runtest_setup(self) -> None:
        torch.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Have every item begin so, examples too, which lie outside of this folder."""
    config.pluginmanager.register(OneSeed())


@pytest.fixture(autouse=True)
def refusals_are_our_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a test of bad input, which has "refuse" in its name, see the error of the function instead of that of the check."""
    jaxtyping.config.update("jaxtyping_disable", "refuse" in request.node.name)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
