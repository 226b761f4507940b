"""Configs and commands for running on several devices with other tools: Accelerate's YAML and DeepSpeed's JSON, from a
run's config.

Roundhouse itself needs none of them (see docs/clusters.md): they are for scripts that use these tools, and have not
been run.
"""

from __future__ import annotations

from backend.domain.training.config import RunConfig

NOT_RUN = "Generated from the recipe and validated against the libraries' own schemas; not tested on GPUs."


def deepspeed_config(config: RunConfig) -> dict[str, object]:
    """Return DeepSpeed's config for a run: ZeRO stage 2 or 3 (Rajbhandari et al. 2020, arXiv 1910.02054), or stage 0
    for ddp.

    The batch is that of the run: micro_batch a device, grad_accum_steps, and devices.count devices. The learning-rate
    schedule stays with the training script, as it is a function of the step; so does any optimizer but AdamW.
    """
    stage = {"zero2": 2, "zero3": 3, "fsdp": 3}.get(config.devices.sharding, 0)
    zero: dict[str, object] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    precision = config.precision if config.precision != "auto" else "bf16"
    adamw = {"lr": config.learning_rate, "betas": [config.beta1, config.beta2], "weight_decay": config.weight_decay}
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.grad_accum_steps,
        "train_batch_size": config.micro_batch * config.grad_accum_steps * config.devices.count,
        "gradient_clipping": config.grad_clip,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        **({"optimizer": {"type": "AdamW", "params": adamw}} if config.optimizer == "adamw" else {}),
        "zero_optimization": zero,
    }


def accelerate_config(config: RunConfig, *, deepspeed_file: str | None = None) -> dict[str, object]:
    """Return the YAML of `accelerate launch --config_file`, for the first machine; others differ in machine_rank."""
    precision = config.precision if config.precision != "auto" else "bf16"
    place, _, port = (config.devices.rendezvous or "localhost:29400").partition(":")
    common: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        "mixed_precision": {"fp32": "no"}.get(precision, precision),
        "use_cpu": False,
        "debug": False,
        "num_processes": config.devices.count,
        "num_machines": config.devices.nodes,
        "machine_rank": 0,
        "main_process_ip": place,
        "main_process_port": int(port),
        "rdzv_backend": "static" if config.devices.nodes == 1 else "c10d",
        "same_network": True,
        "main_training_function": "main",
    }
    if config.devices.sharding in ("zero2", "zero3"):
        settings: dict[str, object] = {
            "deepspeed_config_file": deepspeed_file,
            "zero3_init_flag": config.devices.sharding == "zero3",
        }
        return {**common, "distributed_type": "DEEPSPEED", "deepspeed_config": settings}
    if config.devices.sharding == "fsdp":
        settings = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_activation_checkpointing": config.recompute,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
        return {**common, "distributed_type": "FSDP", "fsdp_config": settings}
    return {**common, "distributed_type": "MULTI_GPU" if config.devices.count > 1 else "NO"}


def describe_distribution(config: RunConfig) -> str:
    """Describe in one sentence how a run is distributed, for logs and pages."""
    devices = config.devices
    if devices.count == 1:
        return "one device"
    places = f" on {devices.nodes} machines" if devices.nodes > 1 else ""
    unit = "sequences" if config.objective.pretrains else "rows"
    batch = config.micro_batch * config.grad_accum_steps * devices.count
    return f"{devices.count} devices{places} by {devices.sharding}, {batch:,} {unit} a step"
