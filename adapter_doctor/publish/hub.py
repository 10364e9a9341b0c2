"""Send files to the Hub through huggingface_hub, in one commit or none, and say in a sentence what hinders it."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import BaseAccess, Missing, UploadContents
from adapter_doctor.sources.hub_errors import Request, chain_of, explain


class UploadError(DoctorError):
    """The Hub did not take the files; what is on it is as it was before, unless the message says otherwise."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What an upload left on the Hub: the repository's full name, and addresses of the commit and the pull request."""

    repo: str
    commit: str
    pull_request: str | None = None


def valid_repo(repo: str) -> None:
    """Do nothing if ``repo`` can be the name of a repository.

    Raises:
        DoctorError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise DoctorError(f"{repo!r} cannot be the name of a repository", "owner/name, such as me/my-lora") from None


def base_access(name: str) -> BaseAccess | Missing:
    """What somebody without a token meets at the base of this name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, token=False, timeout=10)
    except GatedRepoError:
        return BaseAccess(name, "gated")
    except RepositoryNotFoundError:
        return BaseAccess(name, "absent")
    except Exception as error:  # as in the sources: whatever the libraries below raise becomes a sentence
        return Missing(f"whether others can fetch the base could not be asked: {_explained(error, name, None).why}")
    return BaseAccess(name, "gated" if info.gated else "public")


def send(
    folder: Path,
    repo: str,
    contents: UploadContents,
    message: str,
    description: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Sent:
    """Make the repository if it is not there, and commit the files to it at once.

    Raises:
        UploadError: the Hub does not take them.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    before, stage = "", "the repository"
    try:
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        before = _head(api, repo, revision)
        stage = "the files"
        info = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[escape(name) for name in contents.files],  # names, not patterns
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
            parent_commit=before or None,
        )
    except Exception as error:
        raise _failure(error, api, repo, revision, token, before, stage) from None
    return Sent(repo, info.commit_url, info.pr_url)


def _head(api: Any, repo: str, revision: str | None) -> str:
    return str(api.model_info(repo, revision=revision, timeout=10).sha or "")


def _failure(
    error: Exception, api: Any, repo: str, revision: str | None, token: str | None, before: str, stage: str
) -> UploadError:
    responses = (getattr(one, "response", None) for one in chain_of(error))
    status = next((one.status_code for one in responses if one is not None), None)
    where = f"{repo} ({revision})" if revision else repo
    sentences = {
        401: (f"the Hub does not know you: no token, or one that is expired or revoked, for {repo}", "hf auth login"),
        403: (f"your token may not write to {repo}", "a token with write permission for it, or --create-pr"),
        404: (f"the Hub has no place {where} that you may write to", "check the owner's name and the token"),
        409: (f"{where} was changed by somebody else meanwhile", "look at the change, then run the same command again"),
        412: (f"{where} was changed by somebody else meanwhile", "look at the change, then run the same command again"),
        413: (f"{stage} are too large for {repo}", "leave files out, or ask the Hub for more room"),
        429: ("the Hub limits the rate of requests", "try again later"),
    }
    if status in sentences:
        why, hint = sentences[status]
    elif isinstance(error, ValueError) and status is None:
        why, hint = f"the Hub refuses {stage}: {str(error)[:300]}", "mend that, and run the same command again"
    else:
        why, hint = _explained(error, repo, token).why, "run the same command again"
    return UploadError(f"{why}; {_left_behind(api, repo, revision, before)}", hint)


def _left_behind(api: Any, repo: str, revision: str | None, before: str) -> str:
    """What a failed upload left: a commit is whole or absent, but an answer that was cut says nothing of it."""
    if not before:
        return "nothing was committed"
    try:
        now = _head(api, repo, revision)
    except Exception:
        return f"whether the commit arrived is not known: look at https://huggingface.co/{repo}/commits"
    return "nothing was committed" if now == before else f"{repo} has a new commit {now[:12]}: look at it first"


def _explained(error: Exception, repo: str, token: str | None) -> Any:
    from huggingface_hub import constants

    secrets = (token,) if token else ()
    request = Request(repo, None, "", constants.ENDPOINT, str(constants.HF_HUB_CACHE), secrets)
    return explain(error, request)
