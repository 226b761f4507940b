"""Environment variables of job processes: an allow-list, because checkpoints and datasets are not trusted.

The database's URL, passwords and keys stay with the worker. Jobs that use the Hub or an object store get those keys and
the proxies; a judge behind an API gets the key of judges, the evaluation of an endpoint the key that the endpoint
names; training and replicas get none. Training on a CPU gets tunables by which glibc reuses freed memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

from backend.domain.battles.campaign import KEY_ENV
from backend.domain.jobs.payloads import EvaluatePayload, GeneratePayload, JudgePayload
from backend.domain.jobs.records import Payload
from backend.domain.jobs.states import JobKind
from backend.domain.openai_servers import JUDGE_KEY
from backend.infra.engines import VARIABLES
from backend.infra.processes import SUPERVISED_BY

NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TEMP",
        "TMP",
        "TERM",
        "PWD",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "LD_PRELOAD",
        "GLIBC_TUNABLES",
        "MALLOC_ARENA_MAX",
        "MALLOC_CONF",
        "CC",
        "CXX",
        "TOKENIZERS_PARALLELISM",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "ROUNDHOUSE_HOME",
        "SLURM_CONF",
        *VARIABLES,
        "KMP_DUPLICATE_LIB_OK",
    ]
)
PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "COVERAGE_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "VECLIB_"),
    *(
        "CUDA_",
        "CUBLAS_",
        "CUDNN_",
        "NVIDIA_",
        "NCCL_",
        "GLOO_",
        "HIP_",
        "ROCR_",
        "HSA_",
        "MIOPEN_",
        "PYTORCH_",
        "TORCH",
        "TRITON_",
        "VLLM_",
        "SGLANG_",
    ),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "SAFETENSORS_"),
)
SECRET = re.compile(r"_TOKEN|_KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)

HUB_KINDS = frozenset({JobKind.IMPORT_DATASET, JobKind.ADD_BASE, JobKind.EXPORT})
HUB_NAMES = frozenset({"HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
PROXY_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
STORE_KINDS = frozenset({JobKind.IMPORT_DATASET})
STORE_PREFIXES = ("AWS_", "S3_", "GOOGLE_", "GCS_", "CLOUDSDK_", "FSSPEC_")


def child_environment(
    kind: JobKind, *, api_keys: Collection[str] | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the part of a worker's environment that a job of this kind gets.

    `api_keys` names the keys of a job that calls an API, which gets the proxies too; None: it calls none.
    """
    variables = os.environ if environment is None else environment

    def serves_call(name: str) -> bool:
        return api_keys is not None and (name in api_keys or name.upper() in PROXY_NAMES)

    return {name: value for name, value in variables.items() if _is_allowed(name, kind) or serves_call(name)}


def shared_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a job's environment that jobs of all kinds get, none of them secret."""
    return {name: value for name, value in environment.items() if _is_allowed(name, JobKind.TRAIN)}


def api_keys_of(payload: Payload) -> frozenset[str] | None:
    """Return the variables with the keys of the APIs that a job calls; None where it calls none."""
    if isinstance(payload, JudgePayload) and payload.url is not None:
        return frozenset({JUDGE_KEY})
    if isinstance(payload, GeneratePayload) and payload.url is not None:
        return frozenset({payload.key_env}) if KEY_ENV.fullmatch(payload.key_env) else frozenset()
    if isinstance(payload, EvaluatePayload):
        called = [payload.endpoint, payload.judge.endpoint if payload.judge else None]
        targets = [target for target in called if target is not None]
        return frozenset(target.key_env for target in targets if target.key_env) if targets else None
    return None


def _is_allowed(name: str, kind: JobKind) -> bool:
    if name in NAMES or name == SUPERVISED_BY or (name.startswith(PREFIXES) and not SECRET.search(name)):
        return True
    if kind in HUB_KINDS and name.upper() in HUB_NAMES:
        return True
    return kind in STORE_KINDS and name.startswith(STORE_PREFIXES)


_TRIM_THRESHOLD = "glibc.malloc.trim_threshold=68719476736"
_MMAP_THRESHOLD = "glibc.malloc.mmap_threshold=33554432"
"""glibc's upper limit. Both thresholds are set, as setting one stops glibc from adapting the other."""
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_TUNABLES = ":".join((_HUGE_PAGES, _TRIM_THRESHOLD, _MMAP_THRESHOLD))


def with_memory_reuse(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which glibc keeps freed memory for reuse, in huge pages if the system has them.

    Every step frees and allocates the same hundreds of megabytes; returned to the system, each page is cleared and
    mapped again every time. Other C libraries ignore the setting, and tunables that are already set are kept. See
    docs/benchmarks/pretraining.md.
    """
    return {"GLIBC_TUNABLES": _TUNABLES, **environment}
