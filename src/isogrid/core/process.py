"""What the whole process shares and a user's code may set: put back afterwards. Not here: random states, which belong to a seed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """After the block the working folder, torch's threads, gradients' mode, default type and default device are what they were before it.

    >>> with settings_kept():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    folder = None
    with contextlib.suppress(OSError):  # it has been removed
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):  # it may not be entered any more
                os.fchdir(folder)
            os.close(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


__all__ = ["settings_kept"]
