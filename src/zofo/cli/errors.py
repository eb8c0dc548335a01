"""What a user reads when a verb fails: one line a fault, and the exit code."""

from __future__ import annotations

import errno
import re

import typer

from zofo.errors import LINE, InputError, OutOfMemory, RunError, ZofoError, did_you_mean, out_of_memory, printable


def _click_exception() -> type[Exception]:
    """Base of usage errors: click's, or the copy of click that newer versions of typer bring."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")  # type: ignore[return-value]


WRONG = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EROFS, errno.EEXIST, errno.ENOTEMPTY),
}  # of a path that was given, and not of a run that failed


def failure(error: BaseException) -> tuple[list[str], int]:
    """(lines for the user, exit code) of whatever a verb raised. No line steers a terminal, none fills it."""
    lines, code = _failure(error)
    return [printable(line, LINE) for line in lines], code


def _failure(error: BaseException) -> tuple[list[str], int]:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if isinstance(error, OutOfMemory) or out_of_memory(error):
        from zofo.api.out_of_memory import in_general

        return [in_general(error)], RunError.exit_code
    if isinstance(error, ZofoError):
        return str(error).split("\n"), error.exit_code
    for link in chain:  # safetensors and torch wrap ENOSPC in errors of their own
        if getattr(link, "errno", None) == errno.ENOSPC or "no space left on device" in str(link).lower():
            again = "free some and give the same command again, to a training with a checkpoint with --resume latest"
            return [f"no space left on device: {_place(link)}; {again}"], RunError.exit_code
    if isinstance(error, _click_exception()):
        if option := getattr(error, "option_name", None):  # worded anew in many a version of click and typer
            options = [each for each in getattr(error, "possibilities", None) or () if each != "--help"]
            near = did_you_mean(option, options)
            hint = _setting(option, error, True) or near or _setting(option, error, False)
            return [f"No such option: {option}{hint}"], InputError.exit_code
        return [" ".join(error.format_message().split())], InputError.exit_code  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.filename is not None:
        code = InputError.exit_code if error.errno in WRONG else RunError.exit_code
        return [f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"], code
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.strerror.lower()}: of a file that the system does not name"], RunError.exit_code
    text = " ".join(str(error).split()) or "no message"
    return [f"{type(error).__name__}: {text} (this is a bug or a missing check: --debug shows where)"], 1


def _setting(option: str, error: Exception, exactly: bool) -> str:
    """What to write instead, where the verb takes settings and one of them has that name. exactly: and no other one."""
    from zofo.config.layers import SECTIONS
    from zofo.config.places import of_an_option

    command = getattr(getattr(error, "ctx", None), "command", None)
    metavars = [each.metavar or "" for each in getattr(command, "params", ()) if each.name == "settings"]
    named = re.findall(r"(\w+)\.key", " ".join(metavars))
    sections = [section for section in SECTIONS if section in named or "section" in named]
    return of_an_option(option, sections, exactly) if sections else ""


def _place(error: BaseException) -> str:
    return str(getattr(error, "filename", None) or "the output directory's disk is full")
