"""The exceptions of isogrid. What belongs here: types that more than one layer raises. What does not: messages."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class IsogridError(Exception):
    """Any failure that isogrid explains in one line; the command line prints it and exits with 2."""


class InputError(IsogridError, ValueError):
    """Something that the user gave cannot be used.

    The message is one line that names the field, the value and what is accepted:

    >>> str(InputError("eps", -1, "a number >= 0"))
    'eps: got -1; accepted: a number >= 0'
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        self.field, self.value, self.accepted = field, value, accepted
        shown = value if isinstance(value, str) and value.strip() else repr(value)
        super().__init__(f"{_line(field, 200)}: got {_line(shown, 120)}; accepted: {_line(accepted, 800)}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.accepted)


def _line(text: object, most: int) -> str:
    """One line of `most` characters at most."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


class ModelError(IsogridError):
    """The model does not behave as a classifier: NaN logits, probabilities, wrong shape, an exception in forward."""


class StorageError(IsogridError):
    """Something on disk could not be written or read: it is full, forbidden, gone. The line says what to do.

    >>> str(StorageError(OSError(errno.ENOSPC, "No space left on device"), "runs/mine/cells"))
    'runs/mine/cells: No space left on device: free some space, then the same command goes on'
    """

    def __init__(self, error: OSError, path: object = None) -> None:
        self.error, self.path = error, path
        named = path or error.filename
        said = error.strerror or str(error) or type(error).__name__
        cure = _CURES.get(error.errno or 0, "see to that disk or folder")
        place = f"{named}: " if named else ""
        super().__init__(f"{place}{' '.join(said.split())}: {cure}, then the same command goes on")

    def __reduce__(self) -> tuple[type[StorageError], tuple[OSError, object]]:
        return type(self), (self.error, self.path)


_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, since the machine has too many open files",
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that can be written (--out), or change its permissions"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "put back what should be there, or choose another folder (--out)"),
}


def one_of(field: str, value: str, names: Iterable[str]) -> InputError:
    """The error for an unknown name, with the nearest accepted one.

    >>> str(one_of("attack", "fgsm", ["fgs", "pgd"]))
    'attack: got fgsm; accepted: fgs, pgd (did you mean fgs?)'
    """
    accepted = sorted(names)
    near = difflib.get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return InputError(field, value, ", ".join(accepted) + hint)
