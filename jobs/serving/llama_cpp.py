"""llama.cpp's server from the package `xllamacpp` as a process, with the arguments of `llama-server`."""

from __future__ import annotations

import argparse
import os
import threading


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for name in ("model", "alias", "host", "cache-type-k", "cache-type-v", "flash-attn", "fit"):
        parser.add_argument(f"--{name}", required=True)
    for name in (
        "port",
        "ctx-size",
        "parallel",
        "threads",
        "threads-batch",
        "n-gpu-layers",
        "cache-ram",
        "log-verbosity",
    ):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("metrics", "no-webui", "no-kv-unified", "no-context-shift"):
        parser.add_argument(f"--{name}", action="store_true", required=True)
    given = parser.parse_args()

    import xllamacpp

    numbers = {"f32": xllamacpp.ggml_type.GGML_TYPE_F32, "f16": xllamacpp.ggml_type.GGML_TYPE_F16}
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = given.model, {given.alias}
    params.hostnames, params.port = [given.host], given.port
    params.n_ctx, params.n_parallel, params.kv_unified, params.ctx_shift = given.ctx_size, given.parallel, False, False
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = given.threads, given.threads_batch
    params.n_gpu_layers, params.cache_ram_mib = given.n_gpu_layers, given.cache_ram
    params.cache_type_k, params.cache_type_v = numbers[given.cache_type_k], numbers[given.cache_type_v]
    attention = xllamacpp.llama_flash_attn_type
    is_off = given.flash_attn == "off"
    params.flash_attn_type = (
        attention.LLAMA_FLASH_ATTN_TYPE_DISABLED if is_off else attention.LLAMA_FLASH_ATTN_TYPE_AUTO
    )
    params.fit_params, params.endpoint_metrics, params.ui = given.fit == "on", given.metrics, not given.no_webui
    params.verbosity = given.log_verbosity
    params.api_keys = [os.environ.pop("LLAMA_API_KEY")]
    server = xllamacpp.Server(params)  # raises where the model can't be loaded or the port is taken
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
