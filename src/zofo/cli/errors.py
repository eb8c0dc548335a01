"""What a user reads when a verb fails: one line a fault, and the exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from zofo.errors import LINE, InputError, OutOfMemory, RunError, ZofoError, nearest, out_of_memory, printable


def _click_exception() -> type[Exception]:
    """Base of usage errors: click's, or the copy of click that newer versions of typer bring."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")  # type: ignore[return-value]


WRONG = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EROFS, errno.EEXIST, errno.ENOTEMPTY),
}  # of a path that was given, and not of a run that failed


def failure(error: BaseException, args: Sequence[str] = ()) -> tuple[list[str], int]:
    """(lines for the user, exit code) of whatever a verb raised. No line steers a terminal, none fills it.

    args: of the command line.
    """
    lines, code = _failure(error, args)
    return [printable(line, LINE) for line in lines], code


def _failure(error: BaseException, args: Sequence[str]) -> tuple[list[str], int]:
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
        if hasattr(error, "possibilities") and (option := getattr(error, "option_name", None)):
            return [_no_such_option(option, error, args)], InputError.exit_code
        return [" ".join(error.format_message().split())], InputError.exit_code  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.filename is not None:
        code = InputError.exit_code if error.errno in WRONG else RunError.exit_code
        return [f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"], code
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.strerror.lower()}: of a file that the system does not name"], RunError.exit_code
    text = " ".join(str(error).split()) or "no message"
    return [f"{type(error).__name__}: {text} (this is a bug or a missing check: --debug shows where)"], 1


def _no_such_option(option: str, error: Exception, args: Sequence[str]) -> str:
    """What was probably meant: an option of this verb, a setting that it takes, or an option of another verb."""
    if re.fullmatch("-[^-]", option):  # -max-steps is read as -m, -a, ...
        option = next((arg for arg in args if arg.startswith(option) and len(arg) > 2), option).partition("=")[0]
    ctx: Any = getattr(error, "ctx", None)
    command, root = getattr(ctx, "command", None), ctx.find_root().command if ctx is not None else None
    verbs = _verbs(root)
    own = [name for name in _options(command) if name != "--help"]
    word = _bare(option)
    same = next((name for name in own if _bare(name) == word), None)
    strong, weak = ("", "") if same is not None else _foreign(option, command, own, args)
    hint = "" if same is not None else strong or _setting(option, command, True, args)
    near = same or _near(word, own)
    near = "--help" if word in ("h", "help") else near
    elsewhere = _of_another(word, ctx, verbs, 1.0)
    if not hint and same is None and near != "--help" and weak:
        hint = elsewhere or weak
    if not hint and near is not None:
        hint = f'; did you mean "{near}"?'
    hint = hint or _setting(option, command, False, args) or elsewhere or _of_another(word, ctx, verbs, 0.8)
    return f"No such option: {option}{hint}"


def _of_another(word: str, ctx: Any, verbs: dict[str, list[str]], least: float) -> str:
    """Of the first verb that has an option so near to the word, what is said; "" for none."""
    for verb, names in verbs.items():
        if near := _near(word, names, least):
            return f"; zofo {verb} has {near}, {_path_of(ctx)} has not"
    return ""


def _bare(option: str) -> str:
    return re.sub("[-_]", "", option).lower()


def _near(word: str, options: Iterable[str], least: float = 0.6) -> str | None:
    """The option that a word without dashes is nearest to."""
    by_word = {_bare(name): name for name in options}
    near = nearest(word, by_word, least)
    return by_word[near] if near is not None else None


def _options(command: Any) -> list[str]:
    """The long ones of a verb."""
    each = [name for param in getattr(command, "params", ()) for name in (*param.opts, *param.secondary_opts)]
    return [name for name in each if name.startswith("--")]


def _verbs(command: Any, path: str = "") -> dict[str, list[str]]:
    """{"train", "data meta", ...: its options}"""
    verbs: dict[str, list[str]] = {}
    for name, inner in getattr(command, "commands", {}).items():
        at = f"{path} {name}".strip()
        verbs |= _verbs(inner, at) if getattr(inner, "commands", None) else {at: _options(inner)}
    return verbs


def _path_of(ctx: Any) -> str:
    """Of the verb, such as "data meta"."""
    return " ".join(getattr(ctx, "command_path", "").split()[1:]) or "this"


def _setting(option: str, command: Any, exactly: bool, args: Sequence[str]) -> str:
    """What to write instead, where the verb takes settings and one of them has that name. exactly: and no other one."""
    from zofo.config.places import of_an_option

    sections = _sections(command)
    return of_an_option(option, sections, exactly, _method(args)) if sections else ""


def _foreign(option: str, command: Any, own: Sequence[str], args: Sequence[str]) -> tuple[str, str]:
    """Of another trainer's word, such as --learning_rate: what to write instead, and what it is where this verb has
    nothing of it; "" for any other word."""
    from zofo.config.places import of_a_word, of_no_option, paths_in

    paths = paths_in(_sections(command), _method(args))
    return of_a_word(option, own, paths), of_no_option(option, own, paths)


def _sections(command: Any) -> list[str]:
    """Of the settings that a verb takes."""
    from zofo.config.layers import SECTIONS

    metavars = [each.metavar or "" for each in getattr(command, "params", ()) if each.name == "settings"]
    named = re.findall(r"(\w+)\.key", " ".join(metavars))
    return [section for section in SECTIONS if section in named or "section" in named]


def _method(args: Sequence[str]) -> str:
    """The method that a command line names, "" for none."""
    text = " ".join(args)
    match = re.search(r"(?:^|\s)(?:--method[ =]|method(?:\.name)?=)(\S+)", text)
    return match[1] if match else ""


def _place(error: BaseException) -> str:
    return str(getattr(error, "filename", None) or "the output directory's disk is full")
