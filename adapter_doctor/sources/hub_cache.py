"""Where huggingface_hub's cache lies, and what the library tells of a repository's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_doctor.sources.hub_shelf import Entry


def shelf_folder(repo: str) -> Path | None:
    """Where this package keeps what it learnt about a repository, in huggingface_hub's cache for assets."""
    from huggingface_hub import cached_assets_path, constants

    try:
        folder = repo.replace("/", "--")
        return cached_assets_path(
            "adapter-doctor", namespace="models", subfolder=folder, assets_dir=constants.HF_ASSETS_CACHE
        )
    except (OSError, ValueError):  # the latter for a file that lies in its place
        return None


def cache_folder(repo: str) -> Path:
    """The repository's folder in the cache, whose layout huggingface_hub documents."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def tree_in_cache(repo: str, commit: str) -> Mapping[str, Entry]:
    """The listing that `hf download` left in the cache, from huggingface_hub 2.0; empty where there is none."""
    import huggingface_hub
    from huggingface_hub import errors

    cached_tree = getattr(huggingface_hub, "get_cached_repo_tree", None)
    try:
        found = cached_tree(repo, revision=commit) if cached_tree is not None else ()
    except getattr(errors, "CachedRepoTreeNotFoundError", ()):
        return {}
    return {one.path: entry for one in found if (entry := entry_of(one)) is not None}


def entry_of(one: Any) -> Entry | None:
    """A file of huggingface_hub's listings; None where the size is not known."""
    lfs = one.lfs or {}
    return Entry(one.size, str(lfs.get("sha256") or one.blob_id or "")) if isinstance(one.size, int) else None
