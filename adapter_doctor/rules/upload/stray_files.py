"""AD605: files that are no part of an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import UploadContents
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD605", Severity.WARNING)
def stray_files(contents: UploadContents) -> Iterator[Hit]:
    """Files that are no part of an adapter would be sent.

    ## Why it matters
    Optimizer states are twice the size of the adapter and more, pickles of training arguments run code where they are
    loaded and hold names of machines and users, and a merged model beside an adapter is gigabytes that nobody asked for.

    ## Common causes
    Uploading a trainer's output folder as it is.

    ## Fix
    Leave them out, as `adapter-doctor upload` does unless `--include` asks for them, or move them elsewhere.
    """
    if contents.included:
        size = sum(contents.files.get(name, 0) for name in contents.included)
        kinds = ", ".join(sorted(set(contents.included.values())))
        yield Hit(
            f"{len(contents.included)} of {len(contents.files)} files to be sent ({size:,} bytes) are no part of an adapter:"
            f" {kinds}",
            count=len(contents.included),
            examples=some(sorted(contents.included)),
        )
