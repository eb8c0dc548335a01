"""Words of transformers' TrainingArguments, TRL's SFTConfig, PEFT's configs, lm-eval and the hub, and what zofo has.

Who types one is answered with the field that does it, see `config.places`; where zofo has none, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from zofo.errors import nearest


@dataclass(frozen=True)
class Word:
    """fields: "section.field", or with a value, "model.dtype=bfloat16", or a section; those that a run has are named.
    options: of verbs that have one in place of a field. why: where the meaning is another, or there is no field."""

    fields: tuple[str, ...] = ()
    why: str = ""
    options: tuple[str, ...] = ()


RATES = "method.lr method.lr_s method.lr_p method.lr_theta"
ALWAYS = "only the answer's tokens are trained, of a chat the last assistant turn (task.loss_on=all: each)"
NONE = "zofo has none of it"
PUSHED = "training uploads nothing; zofo export RUN OUT --push-to-hub OWNER/NAME does"
STEPS = "always in steps"
TURNED = "the other way round: batch_size is all of an update, micro_batch_size how many of it at once"
DECAY = "with rule.name=adamw; first-order optimizers decay nothing"
NF4 = "its compute type is model.dtype"

# words: fields, then what differs. Of several words in a line each means the same.
_TABLE: dict[str, tuple[str, str]] = {
    # Length and cadence
    "epochs num_epochs n_epochs max_epochs train_epochs": ("train.num_train_epochs", ""),
    "num_steps training_steps max_train_steps num_training_steps train_steps iterations": ("train.max_steps", ""),
    "warmup_ratio": ("train.warmup_steps", "in counted steps, and not a share of them"),
    "warmup num_warmup_steps": ("train.warmup_steps", ""),
    "eval_strategy evaluation_strategy do_eval": ("train.eval_steps", STEPS),
    "eval_delay eval_on_start": ("train.eval_steps", "and once more at the end"),
    "eval_every eval_freq eval_interval": ("train.eval_steps", ""),
    "save_strategy": ("train.save_steps", STEPS),
    "save_every save_freq save_interval checkpointing_steps": ("train.save_steps", ""),
    "save_only_model": ("train.save_total_limit", "a checkpoint always has all that a resume needs"),
    "logging_strategy logging_first_step": ("train.logging_steps", STEPS),
    "log_every log_interval logging_interval": ("train.logging_steps", ""),
    # Rates and optimizers
    "learning_rate lr": (RATES, ""),
    "lr_scheduler scheduler lr_schedule": ("train.lr_scheduler_type", ""),
    "lr_scheduler_kwargs": ("", "constant, linear and cosine have no settings but train.warmup_steps"),
    "optim optimizer_type optimizer_name": ("method.optimizer rule.name", "rule: what moves theta by estimates"),
    "optim_args optim_target_modules": ("", "method.optimizer is adamw or sgd as it is"),
    "weight_decay wd": ("rule.weight_decay", DECAY),
    "adam_beta1": ("rule.beta1", "of theta's rule; first-order optimizers have .9"),
    "adam_beta2": ("rule.beta2", "of theta's rule; first-order optimizers have .999"),
    "adam_epsilon": ("rule.adam_eps", "of theta's rule"),
    "gradient_clipping clip_grad grad_clip max_norm gradient_clip_val": ("train.max_grad_norm", "first-order steps"),
    "label_smoothing label_smoothing_factor": ("", NONE),
    "neftune_noise_alpha": ("", NONE + "; noise would differ between the forwards of an estimate"),
    # Batches
    "per_device_train_batch_size train_batch_size per_gpu_train_batch_size": ("train.batch_size", "all of an update"),
    "gradient_accumulation_steps accumulate_grad_batches grad_accum": ("train.micro_batch_size", TURNED),
    "per_device_eval_batch_size per_gpu_eval_batch_size eval_bs": ("train.eval_batch_size", ""),
    "eval_accumulation_steps batch_eval_metrics": ("train.eval_batch_size", "numbers alone are kept of a batch"),
    "bs": ("train.batch_size", ""),
    "auto_find_batch_size max_batch_size": ("train.batch_size", "zofo memory says what a batch needs"),
    "length_column_name train_sampling_strategy": ("train.group_by_length", ""),
    "dataloader_drop_last": ("", "the batch that a pass cannot fill goes on in the next one"),
    "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context dataloader_in_order num_workers dataset_num_proc preprocessing_num_workers "
    "remove_unused_columns": ("", "all rows are tokens in memory before the first step"),
    "packing packing_strategy eval_packing padding_free pad_to_multiple_of": (
        "train.group_by_length",
        "no packing: a batch's texts are of similar length instead",
    ),
    "shuffle shuffle_dataset": ("", "always shuffled, in an order by train.seed"),
    "data_seed random_seed train_set_seed": ("train.seed", "one seed for all"),
    "full_determinism": ("", "the same seed on the same machine gives the same run"),
    # Memory and precision
    "bf16 use_bf16 bfloat16 bf16_full_eval": ("model.dtype=bfloat16", "of the weights too, there is no autocast"),
    "fp16 half float16 fp16_full_eval load_float16": (
        "model.dtype=float16",
        "of the weights too, there is no autocast",
    ),
    "fp32 float32": ("model.dtype=float32", ""),
    "torch_dtype precision mixed_precision compute_dtype": ("model.dtype", "of the weights too, there is no autocast"),
    "tf32": ("", NONE),
    "load_in_4bit use_4bit": ("model.quantization=nf4", ""),
    "load_in_8bit use_8bit load_int8": ("model.quantization=int8", ""),
    "bnb_4bit_quant_type quantization_bit quantization_config": ("model.quantization", ""),
    "bnb_4bit_compute_dtype": ("model.dtype", "of all that is not quantised"),
    "bnb_4bit_use_double_quant use_bnb_nested_quant bnb_4bit_quant_storage": ("model.quantization=nf4", NF4),
    "activation_checkpointing use_gradient_checkpointing": ("train.gradient_checkpointing", ""),
    "gradient_checkpointing_kwargs activation_checkpointing_kwargs": ("train.gradient_checkpointing", "true or false"),
    "activation_offloading torch_empty_cache_steps skip_memory_metrics": ("", NONE),
    "torch_compile torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config jit_mode_eval "
    "attn_implementation use_flash_attention_2 flash_attn": ("", "transformers' usual attention, not compiled"),
    "use_cache": ("", "set by what is done: none in training, a cache in generation"),
    "use_cpu no_cuda": ("model.device=cpu", ""),
    "fsdp_config": ("parallel.fsdp", "processes that hold one model"),
    "deepspeed ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_static_graph local_rank accelerator_config parallelism_config average_tokens_across_devices "
    "save_on_each_node log_on_each_node log_level_replica": ("", "docs/scale.md says how processes share a run"),
    "ddp_timeout": ("parallel.timeout", ""),
    "num_processes nproc_per_node world_size": ("", "zofo train --nproc N, or any launcher (docs/scale.md)"),
    # Data
    "dataset dataset_name dataset_path data_path tasks task_name training_tasks test_tasks": ("task.name", ""),
    "data_files train_data train_data_file": ("task.train_file", ""),
    "validation_file valid_file val_file eval_file": ("task.dev_file", ""),
    "dataset_config dataset_config_name dataset_train_split dataset_test_split": (
        "task.data",
        "a directory with train, validation and test files",
    ),
    "dataset_text_field text_field text_column_name text_key": ("task.text_column", ""),
    "label_column_name label_key label_field": ("task.label_column", ""),
    "dataset_kwargs label_names formatting_func response_template": (
        "",
        "a file has the columns text and label, prompt and completion, or messages; any others: a task .yaml",
    ),
    "dataset_streaming streaming": ("", "all rows are read before the first step"),
    "max_train_samples num_train max_samples": ("task.train_examples", ""),
    "max_eval_samples num_dev": ("task.dev_examples", ""),
    "max_predict_samples num_eval": ("task.test_examples", ""),
    "limit": ("task.train_examples task.dev_examples task.test_examples", ""),
    "assistant_only_loss": ("task.loss_on", "all: every turn of the assistant's"),
    "completion_only_loss only_train_option train_on_inputs mask_inputs ignore_index": ("", ALWAYS),
    "loss_type": ("task.objective", ""),
    "max_seq_length max_seq_len model_max_length block_size cutoff_len max_prompt_length": ("model.max_length", ""),
    "truncation_mode truncation_side": ("model.max_length", "cut on the left"),
    "chat_template chat_template_path": ("task.apply_chat_template", "the model's own template"),
    "system_prompt system_instruction system_message": ("task.system", ""),
    "eos_token pad_token": ("", "the tokenizer's own"),
    "shots n_shot k_shot nshot num_shots": ("task.num_fewshot", ""),
    "fewshot_as_multiturn": ("task.num_fewshot", "demonstrations are text before the prompt"),
    "confirm_run_unsafe_code allow_code_execution": ("task.run_generated_code", ""),
    # Texts
    "max_gen_toks max_tokens generation_max_length max_new_toks": ("task.max_new_tokens", ""),
    "do_sample gen_kwargs generation_config": ("task.temperature", "0 is greedy; task.top_p, task.max_new_tokens"),
    "top_k num_beams repetition_penalty min_p": ("", "greedy, or sampled by temperature and top_p"),
    "num_return_sequences n_samples": ("task.samples", ""),
    # The model and its adapter
    "model_name_or_path model_name model_path model_id model_args pretrained base_model base_model_name_or_path": (
        "model.name",
        "",
    ),
    "model_revision": ("model.revision", ""),
    "model_init_kwargs": ("model", "its fields: zofo show model"),
    "use_peft peft peft_config peft_type lora lora_config adapter_config": (
        "adapter.name=lora",
        "method fo-peft trains it by gradients",
    ),
    "task_type lora_task_type": ("", "causal language models alone"),
    "lora_r lora_rank lora_dim rank": ("adapter.r", ""),
    "lora_alpha": ("adapter.alpha", ""),
    "lora_target_modules modules": ("adapter.target_modules", ""),
    "lora_dropout dropout": ("", "no adapter drops anything: an estimate's forwards must be the same function"),
    "use_dora use_rslora use_qalora bias lora_bias init_lora_weights modules_to_save lora_modules_to_save "
    "use_bdlora eva_config corda_config lora_target_parameters target_parameters "
    "exclude_modules layers_to_transform layers_pattern rank_pattern "
    "alpha_pattern loftq_config trainable_token_indices layer_replication fan_in_fan_out": (
        "adapter.target_modules adapter.r adapter.alpha",
        "a LoRA has no other settings",
    ),
    "num_virtual_tokens prompt_length num_prefix": ("adapter.tokens", ""),
    "adapter_name_or_path adapter_path lora_path lora_model_dir lora_weights peft_model_id peft_path "
    "resume_from_adapter pretrained_adapter resume_adapter_file init_adapter load_adapter": (
        "adapter.start",
        "a directory",
    ),
    "prompt_tuning_init_text": ("adapter.text", ""),
    "prompt_tuning_init prefix_projection encoder_hidden_size prompt_init_by_real_tokens no_reparam "
    "prefix_init_by_real_act": ("adapter.text", "real tokens are the start"),
    # The run's directory, reports, the hub
    "output output_path save_dir out_dir logging_dir": ("train.output_dir", ""),
    "overwrite_output_dir": ("train.overwrite", ""),
    "resume_from_checkpoint": ("train.resume", "latest, or a checkpoint's directory"),
    "ignore_data_skip restore_callback_states_from_checkpoint": ("train.resume", "a run goes on with the same bytes"),
    "load_best_model_at_end": ("train.select_by", "the best on dev is always what a run ends with"),
    "metric_for_best_model greater_is_better": ("train.select_by", "loss or metric; task.metric says which"),
    "early_stopping_patience early_stopping": ("", "give callbacks=[EarlyStoppingCallback(...)] to zofo.finetune"),
    "logger use_wandb wandb log_with": ("train.report_to", "a list: wandb, tensorboard, trackio"),
    "run_name wandb_project project trackio_space_id": ("train.report_to", "names are set as its own variables"),
    "disable_tqdm log_level include_num_input_tokens_seen include_for_metrics logging_nan_inf_filter "
    "enable_jit_checkpoint router_aux_loss_coef eval_do_concat_batches eval_use_gather_object": ("", NONE),
    "do_train do_predict predict_only prediction_loss_only log_samples": ("", "a verb each: zofo train, eval, predict"),
    "push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision": ("", PUSHED),
    "hub_token token use_auth_token hf_token": ("", "the hub's token is read from the variable HF_TOKEN"),
    "include_path": ("task.name", "a task's .yaml file"),
    # MeZO's script, and that of Bilevel ZOFO's authors
    "zo_eps": ("estimator.eps", ""),
    "perturbation_mode": ("estimator.name", "spsa has two sides"),
    "train_as_classification non_diff": ("task.objective", "options, lm or metric"),
    "sfc": ("task.scoring=calibrated", ""),
    "prefix_tuning": ("adapter.name=prefix", ""),
    "prompt_tuning": ("adapter.name=prompt", ""),
    "linear_probing head_tuning untie_emb icl_sfc": ("", NONE),
    "lambda": ("method.lam", ""),
    "lower_level_num_train_steps": ("method.inner_steps", ""),
    "lower_level_learning_rate upper_learning_rate": ("method.lr_s method.lr_theta", "the lower's is lr_s"),
    "upper_optimizer": ("rule.name", ""),
    "num_tasks_per_iteration": ("method.tasks_per_step", "of method.name=meta-bilevel-zofo"),
    "template_ver": ("task.template", "default or plain"),
    "perturbations num_perturbations n_directions": ("estimator.q", ""),
    # Whole sections
    "training_args training_arguments training trainer": ("train", "its fields: zofo show train"),
}
_OPTIONS = {  # of verbs that have no such field
    "limit": ("--limit",),
    "per_device_eval_batch_size": ("--batch-size",),
    "eval_batch_size": ("--batch-size",),
    "per_device_train_batch_size": ("--batch-size",),
    "bs": ("--batch-size",),
    "output": ("--output",),
    "output_path": ("--output",),
    "output_dir": ("--output",),
    "dataset_text_field": ("--text-column",),
    "text_field": ("--text-column",),
    "prompt_length": ("--length",),
    "chat_template": ("--apply-chat-template", "--chat"),
    "overwrite_output_dir": ("--overwrite",),
    "tasks": ("--task",),
    "num_steps": ("--steps",),
}
WORDS: dict[str, Word] = {
    word: Word(tuple(fields.split()), why, _OPTIONS.get(word, ()))
    for words, (fields, why) in _TABLE.items()
    for word in words.split()
}

# {kind of the registry: {name: (settings of a command line, or "" for none, one clause)}}
NAMES: dict[str, dict[str, tuple[str, str]]] = {"methods": {}, "adapters": {}, "estimators": {}, "rules": {}}
_FULL, _PREFERENCE = (
    ("method=fo-ft", "every weight, by gradients"),
    ("", "methods train on answers, not on preferences"),
)
for _names, _answer in {
    "lora peft sft adapter": ("method=fo-peft adapter=lora", "LoRA is an adapter, fo-peft trains it by gradients"),
    "qlora": ("method=fo-peft adapter=lora model.quantization=nf4", "LoRA beside a model of 4 bits"),
    "prefix prefix-tuning": ("method=fo-peft adapter=prefix", "an adapter, fo-peft trains it by gradients"),
    "prompt prompt-tuning p-tuning soft-prompt": ("method=fo-peft adapter=prompt", "an adapter of fo-peft"),
    "ia3": ("method=fo-peft adapter=ia3", "an adapter, fo-peft trains it by gradients"),
    "dept": ("method=fo-peft adapter=dept", "an adapter, fo-peft trains it by gradients"),
    "full ft fft full-ft full-finetuning full-fine-tuning finetune fine-tuning": _FULL,
    "zo zeroth-order zo-sgd spsa": ("method=mezo", "zeroth-order steps of every weight"),
    "zo-adam": ("method=mezo rule=adam", "Adam is a rule of MeZO's steps"),
    "zo-momentum": ("method=mezo rule=momentum", "momentum is a rule of MeZO's steps"),
    "mezo-lora": ("method=mezo adapter=lora", "MeZO on an adapter's weights"),
    "mezo-svrg svrg": ("method=mezo estimator=svrg", "an estimator of MeZO's steps"),
    **{name: (f"method=mezo estimator={name}", "an estimator of MeZO's steps") for name in ("lozo", "subzero", "fzoo")},
    **{name: (f"method=mezo rule={name}", "a rule of MeZO's steps") for name in ("meazo", "r-adazo", "adamezo")},
    "smezo s-mezo": ("method=sparse-mezo", ""),
    "bilevel bzofo bilevel-zo": ("method=bilevel-zofo", ""),
    "bilevel-first-order": ("method=bilevel-fo", ""),
    "meta meta-learning meta-bilevel": ("method=meta-bilevel-zofo", ""),
    "few-shot fewshot in-context": ("method=icl", ""),
    "none base baseline eval": ("method=zero-shot", "the model as it is"),
    "dpo ppo grpo rlhf orpo kto rloo reward": _PREFERENCE,
}.items():
    NAMES["methods"] |= dict.fromkeys(_names.split(), _answer)
NAMES["adapters"] = {
    "qlora": ("adapter=lora model.quantization=nf4", "LoRA beside a model of 4 bits"),
    "prompt-tuning": ("adapter=prompt", ""),
    "p-tuning": ("adapter=prompt", "p-tuning's encoder is none of zofo's"),
    "soft-prompt": ("adapter=prompt", ""),
    "prefix-tuning": ("adapter=prefix", ""),
    **dict.fromkeys(
        ("dora", "adalora", "vera", "loha", "lokr", "oft", "boft"), ("adapter=lora", "zofo's low-rank one")
    ),
    **dict.fromkeys(("full", "none"), ("method=fo-ft", "every weight and no adapter")),
}
NAMES["estimators"] = {
    "mezo": ("estimator=spsa", "MeZO's two-point estimate"),
    "two-point": ("estimator=spsa", ""),
    "two-sided": ("estimator=spsa", ""),
    "forward": ("estimator=one-sided", ""),
}
NAMES["rules"] = {
    **dict.fromkeys(("zo-sgd", "mezo"), ("rule=sgd", "")),
    "zo-adam": ("rule=adam", ""),
    **dict.fromkeys(("adamw-torch", "adamw-hf"), ("rule=adamw", "")),
    **dict.fromkeys(("adam8bit", "adamw-8bit", "paged-adamw-8bit"), ("rule=adamw rule.state=8bit", "")),
    "signsgd": ("rule=sign", ""),
}

# {a value as others write it: zofo's, of a setting that has it}
VALUES = {
    **dict.fromkeys(("bf16", "torch.bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "half", "f16", "torch.float16"), "float16"),
    **dict.fromkeys(("fp32", "float", "f32", "torch.float32"), "float32"),
    **dict.fromkeys(("4bit", "4-bit", "4", "int4", "fp4", "bnb", "bitsandbytes", "qlora"), "nf4"),
    **dict.fromkeys(("8bit", "8-bit", "8", "llm.int8", "torchao"), "int8"),
    **dict.fromkeys(("adam", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit"), "adamw"),
    **dict.fromkeys(("paged_adamw_8bit", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("constant_with_warmup", "none"), "constant"),
    "cosine_with_restarts": "cosine",
    "normal": "gaussian",
    "eval_loss": "loss",
    "accuracy": "metric",
}


def bare(word: str) -> str:
    """Without dashes, dots and capitals: --Learning-Rate is learningrate."""
    return re.sub(r"[-_]", "", word).lower()


_BARE = {bare(word): word for word in WORDS}


def known(word: str, fields: Iterable[str] = ()) -> Word | None:
    """The word of the table that was given, or meant where it is misspelt and none of these fields is nearer."""
    given, rivals = bare(word), [bare(field) for field in fields]
    if given in _BARE and given not in rivals:
        return WORDS[_BARE[given]]
    if len(given) < 5 or given in rivals:
        return None
    best = nearest(given, [*_BARE, *rivals], 0.87)
    return WORDS[_BARE[best]] if best is not None and best not in rivals else None
