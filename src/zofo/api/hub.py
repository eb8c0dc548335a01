"""An export on the Hugging Face hub: one commit with the files that its manifest names."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zofo.errors import InputError, RunError, out_of_memory, printable
from zofo.models.sealed import EXPORT, MANIFEST, read_manifest
from zofo.train.trees import names_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("zofo")
BRANCH = re.compile(r"\w([\w./-]*\w)?")  # of what git allows the plain part
TOKEN = "set HF_TOKEN to one that may write, or log in with `hf auth login`"


@dataclass(frozen=True)
class Destination:
    """A repository of the hub, named OWNER/NAME, and the branch, None for its main one. private: None leaves it to the
    hub, as does one that is there."""

    repository: str
    branch: str | None = None
    private: bool | None = None

    @property
    def address(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}" + (f"/tree/{self.branch}" if self.branch else "")


def destination(repository: str | None, private: bool | None, revision: str | None) -> Destination | None:
    """What is asked for, looked at as far as can be before anything is written: the name, the token, the connection.

    Raises InputError; RunError where the hub does not answer.
    """
    if repository is None:
        if given := [name for name, value in (("private", private), ("revision", revision)) if value is not None]:
            raise InputError(f"--{given[0]}: is of a push to the hub; give --push-to-hub OWNER/NAME too")
        return None
    _check_names(repository, revision)
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError("--push-to-hub: the hub is switched off by HF_HUB_OFFLINE; unset it to push")
    if get_token() is None:
        raise InputError(f"--push-to-hub: no token of the hub; {TOKEN}")
    try:
        HfApi().whoami()
    except Exception as error:
        if out_of_memory(error):
            raise
        if _status(error) == 401:
            raise InputError(f"--push-to-hub: the hub does not know the token; {TOKEN}") from None
        raise RunError(f"--push-to-hub: {constants.ENDPOINT}: {_why(error)}; nothing was written") from None
    return Destination(repository, revision, private)


def _check_names(repository: str, revision: str | None) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    shown = printable(repository, 100)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        why = printable(str(error).partition("\n")[0], 300)
        raise InputError(f'--push-to-hub: "{shown}" is no name of a repository: {why}') from None
    if "/" not in repository:
        raise InputError(f'--push-to-hub: "{shown}" names no owner; give OWNER/{shown}')
    if revision is not None and not BRANCH.fullmatch(revision):
        raise InputError(f'--revision: "{printable(revision, 100)}" is no name of a branch')


def push(directory: Path, target: Destination) -> str:
    """One commit with the export's files, and without those of an earlier export that this one does not have.

    What else is in the repository stays. Returns the address. Raises RunError: the export stays where it is.
    """
    from huggingface_hub import HfApi

    try:
        with _bars():
            _commit(HfApi(), directory, target)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise RunError(f"{target.repository}: not pushed: {_why(error)}; {_again(directory, target)}") from None
    return target.address


def _commit(api: HfApi, directory: Path, target: Destination) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names, repository = sorted(names_of(directory)), target.repository
    api.create_repo(repository, private=target.private, exist_ok=True)
    if target.branch is not None:
        api.create_branch(repository, branch=target.branch, exist_ok=True)
    gone = _earlier(api, target) - set(names)
    operations = [CommitOperationAdd(name, str(directory / name)) for name in names]
    more = [CommitOperationDelete(name) for name in sorted(gone)]
    message = "Upload a model trained with zofo"
    api.create_commit(repository, [*operations, *more], commit_message=message, revision=target.branch)


@contextmanager
def _bars() -> Iterator[None]:
    """The library's bars are drawn on a terminal alone, and what is said of a failure stands on a line of its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    terminal, off = sys.stderr.isatty(), are_progress_bars_disabled()
    if not terminal and not off:
        disable_progress_bars()
    try:
        yield
    except BaseException:
        if terminal and not off:
            print(file=sys.stderr)
        raise
    finally:
        if not terminal and not off:
            enable_progress_bars()


def _earlier(api: HfApi, target: Destination) -> set[str]:
    """The files of an export that is in the repository, by its own manifest."""
    there = set(api.list_repo_files(target.repository, revision=target.branch))
    if not {EXPORT, MANIFEST} <= there:
        return set()
    path = api.hf_hub_download(target.repository, MANIFEST, revision=target.branch)
    try:
        return there & {MANIFEST, *read_manifest(Path(path).parent)["sha256"]}
    except InputError:
        log.warning("%s: its %s is damaged, so files of an earlier export may stay there", target.repository, MANIFEST)
        return set()


def _again(directory: Path, target: Destination) -> str:
    branch = f" --revision {target.branch}" if target.branch else ""
    private = " --private" if target.private else ""
    command = f"hf upload {target.repository} {shlex.quote(str(directory))} .{private}{branch}"
    return f"the export is whole in {directory}, and `{command}` pushes it too"


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _why(error: BaseException) -> str:
    """In one line, without the address that the error came from, which is the hub's matter."""
    words = {401: "the hub does not know the token", 403: f"the token may not write there; {TOKEN}"}
    if (status := _status(error)) in words:
        return words[status]
    said = getattr(error, "server_message", None) or " ".join(str(error).split())
    if status is None and error.__cause__ is not None:  # of a file's upload, and its own words have a signed address
        cause = _status(error.__cause__)
        return printable(f"{said} ({cause})" if cause else said, 300)
    return printable(f"{status}: {said}" if status else said or type(error).__name__, 300)
