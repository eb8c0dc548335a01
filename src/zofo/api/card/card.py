"""A card as a whole: the front matter that the hub reads, and the text.

The form is that of TRL's cards: what it is, how it is opened, data, numbers, method, versions, licence, citations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from zofo.api.card import papers, sections
from zofo.api.card.base import Base, base_of
from zofo.api.card.opening import Opening
from zofo.api.card.sections import Numbers
from zofo.api.standing import in_the_readme
from zofo.config import registry
from zofo.config.instantiate import make_method
from zofo.config.paths import bare_metric
from zofo.config.resolve import Config
from zofo.config.reward_name import asked_again
from zofo.data.asking import fenced, how_to_ask, plain, span
from zofo.errors import printable
from zofo.train.ending import Ending

METRIC_TYPES = {"macro_f1": "f1"}  # ours -> the hub's, where they differ


def of_run(info: Mapping[str, Any], config: Config) -> str:
    """README.md of a run's directory. info: run.json."""
    name = info["deployed"]
    what = "theta alone" if name == "theta" else f"(theta, {name})"
    again = asked_again(False, bare_metric(config.task.metric))
    opened = (
        f"The base model, the journal of theta's updates and the adapter are put together again by zofo. Deployed: "
        f"{what}, chosen on dev at step {info['best_step']}. With the path of this folder in place of RUN, `zofo eval "
        f"RUN{again}` measures it again and `zofo export RUN OUT` writes a directory for transformers and peft, from "
        f"anywhere. The folder can be moved; where model or data have moved, `--model` and `--data` name their new "
        f"places."
    )
    return _card(info, config, name, "zofo", ("How to open it", opened), "RUN")


def of_export(info: Mapping[str, Any], config: Config, name: str, opening: Opening) -> str:
    """README.md of an export of the candidate `name`. info: run.json, or what a checkpoint knows of it."""
    after = "`zofo eval HERE` measures it, `zofo generate HERE --prompt TEXT` writes with it."
    if opening.hub is None:
        after = f"The folder can be moved. {after}"
    else:
        repository, branch = opening.hub
        revision = f" --revision {branch}" if branch else ""
        after += f" There HERE is a folder: `hf download {repository}{revision} --local-dir HERE` makes it."
    if opening.kind != "ours" and opening.way is None:
        after = f"`generate` of the libraries does not write what this adapter computes; zofo's does. {after}"
    here = ""
    if info.get("checkpoint"):
        here = f"What is here is {info['checkpoint']} of the run.\n\n"
    elif not info["test"].get(name) and Ending.read(info.get("outcome")).kind != "finished":
        here = f"What is here is the best of its evaluations until then, that of step {info['best_step']}.\n\n"
    opened = f"{here}{fenced(opening.code(), 'python')}\n\n{after}"
    return _card(info, config, name, opening.library, ("Quick start", opened), "HERE", opening)


def _card(
    info: Mapping[str, Any],
    config: Config,
    name: str,
    library: str,
    opened: tuple[str, str],
    target: str,
    opening: Opening | None = None,
) -> str:
    base, method = base_of(config.model), make_method(config)
    trained, measured = method.moves != "nothing" or bool(method.adapters_used), sections.numbers(info, name)
    frozen = method.moves == "nothing" or method.theta_of == "adapter"
    apart = opening is not None and opening.kind != "plain"
    relation = None if opening is None or not trained else "adapter" if frozen and apart else "finetune"
    front = _front(info, config, library, base, measured, relation)
    labels = info.get("labels") or ()
    parts = [
        f"# {plain(info['method'])} on {plain(info['task'])}",
        _what(info, config, base, trained),
        in_the_readme(Ending.read(info.get("outcome"))).rstrip(),
        _section(*opened),
        _section("Training data" if trained else "Data", sections.data(config.task, info, trained)),
        _section("Results", sections.results(measured, info, trained)),
        _section("How it was trained" if trained else "Settings", sections.how(config, info, trained)),
        _section("Framework versions", sections.versions(info)),
        _section("Licence", sections.licence(base)),
        _section("Limits", sections.limits(info, measured, trained)),
        how_to_ask(config.task, target, labels, str(info.get("metric"))).strip("\n"),
        _section("Citation", _citations(config, str(info["zofo"]))),
    ]
    return f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _section(head: str, text: str) -> str:
    return f"## {head}\n\n{text}" if text else ""


def _what(info: Mapping[str, Any], config: Config, base: Base, trained: bool) -> str:
    method = config.names["method"]
    words = registry.describe("methods", method).rstrip(".")
    if not trained:
        first = f"{base.words}, as it is".removeprefix("the ")
        return f"The base is {first}, and was measured on {plain(info['task'])}. The method, {span(method)}: {words}."
    adapter = f", adapter {span(config.names['adapter'])}" if config.names.get("adapter") else ""
    return (
        f"Trained from {base.words} on {plain(info['task'])} with zofo, method {span(method)}{adapter}, seed "
        f"{info['seed']}. The method: {words}.{sections.began(config, info)}"
    )


def _front(
    info: Mapping[str, Any],
    config: Config,
    library: str,
    base: Base,
    measured: Mapping[str, Numbers],
    relation: str | None,
) -> ModelCardData:
    """relation: of the model to its base, in the hub's words."""
    hub = sections.hub_data(config.task)
    kinds = ("method", "adapter", "estimator", "mask")
    tags = ["zofo", *(config.names[kind] for kind in kinds if config.names.get(kind))]
    tags += ["generated_from_trainer"] if library != "zofo" else []
    quantized = [config.model.quantization] if config.model.quantization else []
    licence: dict[str, Any] = dict(base.licence)
    return ModelCardData(
        base_model=base.hub_id,
        base_model_relation=relation if base.hub_id else None,
        library_name=library,
        pipeline_tag="text-generation",  # what the files are to the hub: of options, too, the model is a causal LM
        tags=[printable(tag, 60) for tag in dict.fromkeys([*tags, *quantized])],
        datasets=None if hub is None else [hub[0]],
        model_name=printable(f"{info['method']} on {info['task']}", 100) if measured else None,
        eval_results=list(_index(info, hub, measured)) or None,
        **licence,
    )


def _index(
    info: Mapping[str, Any], hub: tuple[str, str | None] | None, measured: Mapping[str, Numbers]
) -> Iterable[EvalResult]:
    """model-index: test, or dev where the test set was not measured. A number that is none is left out."""
    split = next(iter(measured), None)
    task = printable(str(info["task"]), 100)
    for metric, value in measured[split].items() if split else ():
        if metric == "n" or value is None or not math.isfinite(value):
            continue
        yield EvalResult(
            task_type="text-classification" if info.get("labels") else "text-generation",
            dataset_type=hub[0] if hub else task,
            dataset_name=task,
            dataset_config=hub[1] if hub else None,
            dataset_split=split,
            metric_type=METRIC_TYPES.get(metric, metric),
            metric_name=metric,
            metric_value=round(float(value), 4),
        )


def _citations(config: Config, version: str) -> str:
    entries = [*(papers.bibtex(number) for number in papers.cited(config)), papers.of_zofo(printable(version, 60))]
    return fenced("\n\n".join(entries), "bibtex")
