"""Conversations in rows: OpenAI's and TRL's `messages`, ShareGPT's `conversations`, `prompt` and `completion` as
messages, with the tools that a row offers and the calls of them."""

from __future__ import annotations

import json
from typing import Any

from zofo.data.chat import Chat
from zofo.data.example import Example
from zofo.data.files import Record
from zofo.data.layouts import LAYOUTS, cell, text_of
from zofo.errors import InputError, did_you_mean, printable

# ShareGPT's names of who speaks, as LLaMA-Factory and FastChat read them; the others' are taken too
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
CALLERS = ("function_call", "tool_call")


def from_completion(record: Record, column: str, chat: Chat) -> Example:
    """column: the file's name for `prompt`."""
    prompt, completion = cell(record, column), cell(record, "completion")
    if isinstance(prompt, list) or isinstance(completion, list):  # both as messages, as TRL has them
        if not isinstance(completion, list) or len(completion) != 1 or not isinstance(prompt, list):
            raise InputError(
                f'{record.place}: "{column}" and "completion" must both be texts, or "{column}" a list of messages and '
                '"completion" a list of the one message that answers it'
            )
        names = f'"{column}" and "completion"'
        return _answered(record, _turns(record, [*prompt, *completion], names), names, chat)
    if tools_of(record):
        raise InputError(
            f'{record.place}: "tools" are for messages, and "{column}" is a text, which no chat template writes; give '
            f"both as messages, or drop the column tools"
        )
    prompt, completion = text_of(record, column, may_be_empty=True), text_of(record, "completion")
    return Example(record.id, prompt, (completion,), (0,), place=record.place)


def from_conversation(record: Record, layout: str, chat: Chat) -> Example:
    """The last turn, the assistant's, is the completion; the tokenizer's chat template writes the rest."""
    (column,) = LAYOUTS[layout]
    return _answered(record, conversation_in(record, column), f'"{column}"', chat)


def _answered(record: Record, turns: list[dict[str, Any]], columns: str, chat: Chat) -> Example:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise InputError(f"{record.place}: the last of {columns} must be the assistant's, after at least one other")
    if not turns[-1]["content"].strip() and not turns[-1].get("tool_calls"):
        raise InputError(f"{record.place}: the assistant's last message is empty")
    learnt = [turn for turn in turns if turn["role"] == "assistant"][-1 if chat.loss_on == "last" else 0 :]
    if any(turn.get("weight") == 0 for turn in learnt):
        raise InputError(
            f"{record.place}: an assistant's message has weight 0, and task.loss_on={chat.loss_on} would learn it; "
            f"drop the row, or cut it before that message"
        )
    _check_chat(record, columns, chat)
    return chat.with_tools(turns, tools_of(record), record.place).conversation(record.id, turns, record.place)


def asked_in(record: Record, column: str, chat: Chat) -> Example:
    """The conversation in a column up to where the assistant writes. Raises InputError."""
    turns = turns_of(record, column, chat)
    return chat.with_tools(turns, tools_of(record), record.place).asked(record.id, turns, record.place)


def turns_of(record: Record, column: str, chat: Chat) -> list[dict[str, Any]]:
    """The conversation in a column, whoever speaks last. Raises InputError for none, or a model that takes none."""
    turns = conversation_in(record, column)
    _check_chat(record, f'"{column}"', chat)
    return turns


def conversation_in(record: Record, column: str) -> list[dict[str, Any]]:
    """As a list of {"role", "content"}, whichever way the column has it. Raises InputError."""
    turns = _parsed(cell(record, column))
    if column != "conversations":
        return _turns(record, turns, f'"{column}"')
    listed = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
    if listed and any(turn.get("from") is not None for turn in turns):
        turns = [_of_sharegpt(record, turn) for turn in turns]
    turns = _turns(record, turns, '"conversations"', '"from": ..., "value": ...')
    system = record.row.get("system")
    if isinstance(system, str) and system.strip() and turns[:1] and turns[0]["role"] != "system":
        return [{"role": "system", "content": system}, *turns]
    return turns


def _of_sharegpt(record: Record, turn: dict[str, Any]) -> dict[str, Any]:
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or not isinstance(value, str):
        raise InputError(f'{record.place}: "conversations" must be a list of {{"from": ..., "value": ...}}')
    kept = {} if turn.get("weight") is None else {"weight": turn["weight"]}
    if speaker in CALLERS:
        calls = _parsed(value)
        calls = calls if isinstance(calls, list) else [calls]
        return {"role": "assistant", "content": "", "tool_calls": calls, **kept}
    if speaker not in SPEAKERS:
        known = (*SPEAKERS, *CALLERS)
        raise InputError(
            f'{record.place}: "conversations": unknown speaker "{printable(speaker, 60)}"; known: {", ".join(known)}'
            f"{did_you_mean(speaker[:60], known)}"
        )
    return {"role": SPEAKERS[speaker], "content": value, **kept}


def _turns(record: Record, turns: Any, columns: str, form: str = '"role": ..., "content": ...') -> list[dict[str, Any]]:
    """As messages whose content is a text: that of a call of tools may be none, and parts of text are joined."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{record.place}: {columns} must be a list of {{{form}}}")
    plain = [_message(record, turn) for turn in turns]
    if not all(isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in plain):
        raise InputError(f"{record.place}: {columns} must be a list of {{{form}}}")
    return plain


def _message(record: Record, turn: dict[str, Any]) -> dict[str, Any]:
    turn = {key: value for key, value in turn.items() if value is not None}  # Parquet has every key in every turn
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        turn["content"] = "".join(str(part.get("text") or "") for part in content)
    calls = turn.pop("tool_calls", None)
    if not calls:
        return turn
    if turn.get("role") != "assistant" or not isinstance(calls, list):
        raise InputError(f'{record.place}: "tool_calls" must be a list, of an assistant\'s message')
    return {**turn, "content": turn.get("content", ""), "tool_calls": [_call(record, call) for call in calls]}


def _call(record: Record, call: Any) -> dict[str, Any]:
    """As transformers' templates take it: arguments are a mapping, where OpenAI's files have them as a JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    arguments = _parsed((function or {}).get("arguments") or {})
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise InputError(
            f'{record.place}: a call of a tool must be {{"function": {{"name": ..., "arguments": {{...}}}}}}, the '
            f"arguments a mapping or the JSON text of one"
        )
    kept = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"type": "function", **kept, "function": {"name": name, "arguments": _given(record, arguments)}}


def tools_of(record: Record) -> list[dict[str, Any]]:
    """The tools that a row offers, a list of JSON schemas or the JSON text of one; [] for none."""
    value = record.row.get("tools")
    tools = _parsed(value) if value is not None else []
    if isinstance(value, str) and not value.strip():
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(
            f'{record.place}: "tools" must be a list of functions as JSON schemas, or the JSON text of one'
        )
    return _given(record, tools)


def _given(record: Record, value: Any) -> Any:
    """Of Parquet, whose rows share one schema, without what a row does not have."""
    if not record.place.rpartition(":")[0].lower().endswith(".parquet"):
        return value
    if isinstance(value, dict):
        return {key: _given(record, each) for key, each in value.items() if each is not None}
    return [_given(record, each) for each in value] if isinstance(value, list) else value


def _parsed(value: Any) -> Any:
    """A list or mapping that stands as a JSON text, as in a CSV's cell."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _check_chat(record: Record, columns: str, chat: Chat) -> None:
    if chat.missing:
        raise InputError(
            f"{record.place}: {columns} needs a model with a chat template and this one has none; "
            'use the columns "prompt" and "completion" with texts'
        )
