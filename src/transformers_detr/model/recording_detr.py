"""Whether something records the operations of a forward."""

from __future__ import annotations

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

_HARMLESS = (DeviceContext,)
"""Function modes that record nothing; a mode of this package says so by an attribute `records = False`."""


def is_recorded() -> bool:
    """Return whether a tracer, compiler, exporter, counter or another mode observes each operation.

    Then no branch may depend on values, and every operation must be one of the layers' own: the graph has to hold for
    other inputs, and the observer has to see what the layers say that they do.
    """
    return (
        torch.compiler.is_compiling()  # first: a compiler could not read the next lines
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch.onnx.is_in_onnx_export()
        or _get_current_dispatch_mode() is not None
        or any(
            getattr(mode, "records", True) and not isinstance(mode, _HARMLESS)
            for mode in _get_current_function_mode_stack()
        )
    )
