"""Uploading files to a model hub: exactly those that were listed, into a private place.

The token comes from the environment or the hub's own login and nowhere else; nothing here reads or
writes one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trustee.errors import InputError, RunError
from trustee.types import Record

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MESSAGE = "Upload with trustee"


class Upload(Record, frozen=True):
    """One file that is uploaded."""

    path: Path
    name: str
    """Its path in the repository."""
    size: int


def check_repository(name: str) -> None:
    """Refuse what is not the name of a repository.

    Raises:
        InputError: saying what one looks like.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise InputError(f"--push {name!r} is not a repository; give owner/name")


def list_uploads(places: Sequence[Path]) -> tuple[Upload, ...]:
    """Return every file of some files and folders, as it will be named, sorted by name.

    Raises:
        InputError: if there is a link among them, or two would have one name.
    """
    found: dict[str, Upload] = {}
    for place in places:
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in inside:
            if path.is_symlink():
                raise InputError(f"{path} is a link, which may lead to any file; nothing was sent")
            if path.is_dir():
                continue
            name = str(path.relative_to(place)) if place.is_dir() else path.name
            if name in found:
                raise InputError(
                    f"{found[name].path} and {path} would both be {name}; push them one at a time"
                )
            found[name] = Upload(path=path, name=name, size=path.stat().st_size)
    return tuple(found[name] for name in sorted(found))


def require_token() -> str:
    """Return the token of the environment or of the hub's login.

    Raises:
        InputError: if there is none.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise InputError(
            "--push needs a token with the right to write: log in with `hf auth login`, or set "
            "HF_TOKEN; no config and no option takes one"
        )
    return token


def push(repository: str, uploads: Sequence[Upload], *, public: bool) -> str:
    """Upload files in one commit and return the commit's address.

    Args:
        repository: owner and name; it is created if there is none.
        uploads: what is sent, and nothing else.
        public: whether a new repository is public.

    Raises:
        InputError: if there is no token, the hub refuses it, or the place is public against what
            was asked for.
        RunError: if the hub cannot be reached, or refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token = require_token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    operations = [
        CommitOperationAdd(path_in_repo=upload.name, path_or_fileobj=str(upload.path))
        for upload in uploads
    ]
    with explained(repository, token):
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.model_info(repository).private:
            raise InputError(
                f"{repository} is there already and public, so everybody would see what is sent; "
                "add --public if that is meant, or give another name"
            )
        commit = api.create_commit(repository, operations, commit_message=MESSAGE)
    return str(commit.commit_url)


@contextmanager
def explained(repository: str, token: str) -> Iterator[None]:
    """Say what the hub's client means by its errors, without the token."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except InputError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise InputError(
                f"the hub does not let this token write to {repository} (status {status}); log in "
                "with one that may, or give a repository of your own"
            ) from None
        raise RunError(
            f"the hub refused the upload to {repository} (status {status}): "
            f"{_hide(str(error), token)}; nothing was published"
        ) from None
    except OfflineModeIsEnabled:
        raise RunError(
            "the hub is switched off by HF_HUB_OFFLINE; unset it to push; the exported files are "
            "on disk"
        ) from None
    except (HTTPError, OSError) as error:
        raise RunError(
            f"the hub cannot be reached: {_hide(str(error), token)}; the exported files are on "
            "disk, so repeat with --push once it can"
        ) from None
    except (ValueError, RuntimeError) as error:
        # The client's own words for a large file that did not arrive; the reason lies behind them.
        why = _hide(" ".join(str(error.__cause__ or error).split()), token)
        raise RunError(
            f"the hub did not take the files for {repository}: {why}; nothing was published; the "
            "exported files are on disk, so repeat with --push"
        ) from None


def _hide(text: str, token: str) -> str:
    """Return the first line of a text without the token."""
    return text.strip().partition("\n")[0].replace(token, "***")
