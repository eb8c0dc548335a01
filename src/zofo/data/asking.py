"""How a trained model is asked: a short part of the README.md of a run and of an export."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from zofo.config.paths import bare_metric
from zofo.config.reward_name import asked_again, reward_name
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.data.multitask.setting import find_setting
from zofo.data.spec import METRICS, TaskSpec, pick_template
from zofo.data.task import find_spec
from zofo.errors import InputError, first_few, printable

LISTED = 20  # options
MOST = 1500  # characters of a template


def how_to_ask(cfg: TaskConfig, target: str, labels: Sequence[str], metric: str) -> str:
    """Markdown: the text of a prompt as the run's prompts were, and the commands, which work from any directory.

    target: what stands for the folder, "RUN". labels, metric: as run.json has them. No more than about 3000
    characters, whatever a template or labels hold.
    """
    try:
        setting = find_setting(cfg.name)
        spec = find_spec(cfg.name) if setting is None else None
    except (InputError, OSError):  # a task file that is gone
        setting, spec = None, None
    own = kind_of_task(cfg.name) == "rows"
    if spec is not None:
        kind = spec.kind
    else:
        chosen = labels or metric in METRICS["options"] or setting is not None
        kind = "options" if chosen else "completion" if metric in METRICS["completion"] else "generation"
    parts = ["## How to ask it", _text(cfg, spec, kind, own, setting is not None)]
    if kind == "options":
        parts.append(_options(cfg, spec, labels))
    commands = []
    if setting is None:
        commands = [_generate(cfg, spec, target), f"zofo predict {target} --file ROWS.jsonl --output answered.jsonl"]
    again = asked_again(False, bare_metric(cfg.metric))
    commands.append(f"zofo eval {target} {'--task' if own else '--data'} FILE --output answers.jsonl{again}")
    parts.append("```sh\n" + "\n".join(commands) + "\n```")
    parts.append(_files(kind, setting is not None))
    return "\n" + "\n\n".join(parts) + "\n"


def _files(kind: str, of_many: bool) -> str:
    """What the commands read and write."""
    measured = "`answers.jsonl` then holds each row's prompt, what was predicted, and the scores."
    if of_many:
        return f"FILE is a directory with a folder for each task, with the columns of the training data. {measured}"
    new = "`prediction` and a probability for each label" if kind == "options" else "`text`"
    return (
        "TEXT is a prompt as above. ROWS.jsonl (or .json, .csv, .tsv, .parquet; the output is of the same kind) has "
        "the columns of the training data, but for the answer; `answered.jsonl` has its rows with "
        f"{new} beside them. FILE has the right answers too, to be measured by; {measured}"
    )


def _text(cfg: TaskConfig, spec: TaskSpec | None, kind: str, own: bool, of_many: bool) -> str:
    """What a prompt is, and what stands around it."""
    if of_many:
        lines = [f"A prompt is a row's input as the layout `{cfg.template}` of settings writes it."]
    elif own and kind == "options":
        lines = [
            f"A prompt is the text as it is, the column {span(cfg.text_column or 'text')}; the answer begins after it "
            "with a space (without one where the text ends in white space)."
        ]
    elif own:
        lines = [
            "A prompt is the text as it is, the column `prompt`, and what is written goes on right after it; of rows "
            "with `messages` it is the conversation in the model's chat template: give `--file FILE.jsonl` with them."
        ]
    elif spec is None:
        lines = ["A prompt is what the task's template wrote, in the task file that was trained on."]
    else:
        template = printable(pick_template(spec, cfg.template).prompt, MOST, plain="\n")
        lines = [
            "A prompt is this text, with a row's columns in place of the names in braces (in Jinja's words), and "
            f"nothing after it:\n\n{fenced(template, 'jinja')}"
        ]
        if template != template.rstrip():
            lines.append(f"It ends in {span(repr(template[len(template.rstrip()) :]))}.")
    if cfg.apply_chat_template:
        lines.append("It stands as the user's turn in the model's chat template, which `--chat` puts around a text.")
    if cfg.system is not None:
        lines.append(
            'Before it stands a system turn, "' + plain(cfg.system, 200) + '", which `--chat` puts there too '
            "(`--system TEXT` another one)."
        )
    if cfg.num_fewshot and not of_many:
        lines.append(f"Before dev and test prompts stood {cfg.num_fewshot} answered examples.")
    return "\n\n".join(lines)


def _options(cfg: TaskConfig, spec: TaskSpec | None, labels: Sequence[str]) -> str:
    """That an option is chosen by its likelihood, and which there are."""
    words: Sequence[str] = [f" {word}" if not word[:1].isspace() else word for word in labels]
    if spec is not None:
        answers = pick_template(spec, cfg.template).answers
        words = [] if isinstance(answers, str) or any("{" in answer for answer in answers) else answers
    listed = first_few([span(word) for word in words], LISTED)
    which = f"the options {listed}" if words else "the options of each row"
    return (
        f"An answer is chosen, not written: `zofo eval` compares how likely {which} are after the prompt (scoring "
        f"`{cfg.scoring}`), and takes the likeliest. `zofo generate` writes whatever is likely, which may be none of "
        "them."
    )


def span(text: str, most: int = 40) -> str:
    """A code span of Markdown, in which nothing is markup, of a text that may hold anything."""
    return "`" + printable(text, most).replace("`", "'") + "`"


def plain(text: str, most: int = 80) -> str:
    """A text that may hold anything as words of Markdown and no markup."""
    return re.sub(r"([\\`*\[\]<>|#!~&$]|(?<!\w)_|_(?!\w))", r"\\\1", printable(text, most))


def fenced(text: str, language: str) -> str:
    """A block of Markdown, with a longer fence than what it holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _generate(cfg: TaskConfig, spec: TaskSpec | None, target: str) -> str:
    """The command, with the task's own way of writing."""
    command = f"zofo generate {target} --prompt TEXT" + (" --chat" if cfg.apply_chat_template else "")
    if spec is None or (spec.kind != "generation" and reward_name(cfg.metric) is None):
        return command + (f" --max-new-tokens {cfg.max_new_tokens}" if cfg.max_new_tokens else "")
    decoding = spec.generation
    temperature = decoding.temperature if cfg.temperature is None else cfg.temperature
    command += f" --max-new-tokens {cfg.max_new_tokens or decoding.max_new_tokens}"
    command += f" --temperature {temperature:g}" if temperature else ""
    stops = [stop.replace("\n", "\\n").replace("\t", "\\t") for stop in decoding.stop[:8]]
    return command + "".join(f" --stop {shlex.quote(printable(stop, 60))}" for stop in stops)
