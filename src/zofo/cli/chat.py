"""`zofo chat`: a conversation in the terminal, answers as they are written; or turns from the standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofo.cli.generate import note
from zofo.cli.options import ADAPTER_OF, BaseModel, option
from zofo.cli.process import libraries
from zofo.config.json_text import dumps
from zofo.errors import InputError, did_you_mean, printable

if TYPE_CHECKING:
    from zofo.api.chat import Conversation

COMMANDS = {
    "/help": "this list",
    "/reset": "forget the conversation (/clear too)",
    "/system TEXT": "another system turn from now on; without TEXT none",
    "/save FILE": 'write the conversation as a row {"messages": [...]}, which training and generate read',
    "/exit": "end; Ctrl-D and Ctrl-C do so too, and in an answer Ctrl-C stops that alone",
    "//...": "a turn that begins with a slash",
}


def chat(
    target: Annotated[str, typer.Argument(help="A run, a checkpoint of one, an export, a PEFT directory, or a model.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[model.key=value]...", help="Changes (zofo show model).")
    ] = None,
    system: Annotated[str | None, option('Text of a system turn; the run\'s if left out, "" for none.')] = None,
    max_new_tokens: Annotated[int, option("Tokens of an answer, at most.")] = 512,
    temperature: Annotated[float, option("0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, option("Sample from the likeliest tokens that hold so much of the probability.")] = 1.0,
    seed: Annotated[int, option("Seed of the sampling.")] = 0,
    adapter: Annotated[str | None, ADAPTER_OF] = None,
    model: BaseModel = None,
) -> None:
    """Talk with a run, an export or a plain model, in its chat template.

    /help lists what can be done in a conversation. Off a terminal each line of the standard input is a turn, and each
    answer a line of JSON.
    """
    from zofo.config.sections import ModelConfig
    from zofo.config.words import check_words

    check_words(settings or [], {"model": ModelConfig}, "chat")
    if sys.stdin is None:
        raise InputError("standard input is closed; chat reads its turns there")
    with libraries():
        from zofo.api.chat import open_chat

    given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    given |= {"seed": seed, "adapter": adapter, "model": model, "overrides": settings or [], "noted": note}
    talk = Talk(open_chat(target, system=system, **given))
    if talk.terminal:
        note("/help lists the commands, Ctrl-D ends")
    talk.run()


class Talk:
    """A conversation and where it is held. terminal: turns are typed, and what is wrong with one is said and mended;
    else it ends with an error. shown: answers are shown as text, as they are written."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.terminal, self.shown = sys.stdin.isatty(), sys.stdout is not None and sys.stdout.isatty()
        self.left_out = 0
        self.saved: set[Path] = set()

    def run(self) -> None:
        for line, place in self._typed() if self.terminal else self._piped():
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not self._command(line, place):
                        return
                else:
                    self._turn(line[1:] if line.startswith("//") else line, place)
            except (InputError, OSError) as error:
                if not self.terminal:
                    raise
                typer.echo(f"error: {_in_words(error)}", err=True)
            except KeyboardInterrupt:  # before the answer had begun
                if not self.terminal:
                    raise
                note("stopped")

    # ------------------------------------------------------------------------------------------------ what is read

    def _typed(self) -> Iterator[tuple[str, str]]:
        with suppress(ImportError):
            import readline  # noqa: F401 (keys that edit a line and bring back those before)
        while True:
            try:
                if self.shown:
                    line = input("> ")
                else:  # the answers' file holds no prompts
                    print("> ", end="", file=sys.stderr, flush=True)
                    line = input()
                _check_text(line, "this line")
            except (EOFError, KeyboardInterrupt):
                if self.shown:
                    print()
                return
            except (InputError, UnicodeDecodeError):
                typer.echo("error: this line is not UTF-8", err=True)
                continue
            if line.strip():
                yield line, "this turn"

    def _piped(self) -> Iterator[tuple[str, str]]:
        """A line each; blank ones are no turn."""
        number = 0
        while True:
            number += 1
            place = f"standard input:{number}"
            try:
                line = sys.stdin.readline()
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8 ({error.reason})") from None
            if not line:
                return
            line = line.rstrip("\r\n")
            _check_text(line, place)
            if line.strip():
                if self.shown:
                    print(printable(f"> {line}"), flush=True)
                yield line, place

    # ------------------------------------------------------------------------------------------------ what is said

    def _turn(self, text: str, place: str) -> None:
        written = ""

        def heard(settled: str) -> None:
            nonlocal written
            if self.shown and settled.startswith(written):
                print(printable(settled[len(written) :], plain="\n\t"), end="", flush=True)
                written = settled

        answer = self.conversation.ask(text, heard, place)
        if not answer.whole and not self.terminal:
            raise KeyboardInterrupt
        if not self.shown:
            print(dumps({"prompt": text, "completion": answer.text}), flush=True)
        else:
            rest = answer.text[len(written) :] if answer.text.startswith(written) else f"\n{answer.text}"
            print(printable(rest, plain="\n\t"), flush=True)
        if not answer.whole:
            note("stopped; what was written stays in the conversation")
        if answer.left_out > self.left_out:
            turns = "turn is" if answer.left_out == 1 else "turns are"
            note(f"the conversation is longer than the model's context: its first {answer.left_out} {turns} left out")
        self.left_out = answer.left_out

    def _command(self, line: str, place: str) -> bool:
        """Whether the conversation goes on."""
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word in ("/exit", "/quit"):
            return False
        if word in ("/reset", "/clear"):
            self.conversation.turns, self.left_out = [], 0
            note("the conversation begins anew")
        elif word == "/system":
            self.conversation.instruct(rest or None)
            note(f"system turn: {printable(rest, 200)}" if rest else "no system turn")
        elif word == "/save":
            self._save(rest, place)
        elif word == "/help":
            for name, what in COMMANDS.items():
                typer.echo(f"{name:<14}{what}", err=True)
        else:
            known = [name.split()[0] for name in COMMANDS if name != "//..."]
            near = did_you_mean(word, known)
            raise InputError(f"{place}: no command {printable(word, 60)}{near}; known: {', '.join(known)}")
        return True

    def _save(self, name: str, place: str) -> None:
        from zofo.train.files import write_text

        if not name:
            raise InputError(f"{place}: /save needs the name of a file")
        if not self.conversation.turns:
            raise InputError(f"{place}: nothing was said yet")
        path = Path(name).expanduser()
        if path.exists() and path.resolve() not in self.saved:
            raise InputError(f"{path}: is there already; give another name")
        write_text(path, dumps({"messages": self.conversation.messages}) + "\n")
        self.saved.add(path.resolve())
        note(f"saved: {printable(str(path), 300)}")


def _check_text(line: str, place: str) -> None:
    """Raises InputError for bytes that are no text, which Python keeps as lone surrogates."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{place}: not UTF-8") from None


def _in_words(error: Exception) -> str:
    from zofo.cli.errors import failure

    return "; ".join(failure(error)[0])
