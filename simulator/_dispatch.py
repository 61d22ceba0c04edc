"""Listening to torch's operators without loading its compiler."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """What modes of ours that hear every operator derive from.

    By default torch wraps such a mode in ``torch._dynamo.disable`` and imports its compiler at the first operator heard: seconds in every
    process, for code that is never compiled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
