"""Errors for misuse, with fields, and one table from the operating system's errors to sentences."""

from __future__ import annotations

import errno


class DoctorError(Exception):
    """The request itself cannot be carried out: wrong arguments, not a defect of an adapter.

    ``message`` says what is there and what was expected; ``hint`` is what to type next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


_SENTENCES = {
    errno.ENOENT: "it does not exist",
    errno.EACCES: "its permissions do not let you read it",
    errno.EPERM: "its permissions do not let you read it",
    errno.ELOOP: "it is a symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOSPC: "the disk is full",
    errno.EIO: "the disk reported a read error",
}


def os_error_sentence(error: OSError) -> str:
    """What an operating-system error means, as a clause."""
    return _SENTENCES.get(error.errno or 0, error.strerror or type(error).__name__)
