"""A second device in plain Python: what a GPU would refuse is refused on a machine without one.

`install()` registers the device type `second` in torch's slot for devices from outside (PrivateUse1), where
`torch.accelerator` reports it, so the product picks it as it picks a GPU. A tensor on it wraps a CPU tensor and
computes the same bits, but for attention, which takes its steps one by one. It refuses to compute with a tensor of the
CPU that has a dimension, to become NumPy's, and to be pickled: each of them is an error on a GPU, or a hidden wait for
one. Memory, streams and pinned memory answer and do nothing. Kernels, number formats, graphs, asynchrony and speed are
not seen: docs/gpu.md lists what that leaves open.

As a plugin of pytest (`-p tests.support.second_device`, as `make device` does) it installs itself at the start.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
DEVICE = torch.device("cpu")
MEMORY_BYTES = 8 << 30

CURRENT = [""]
OPERATORS: Counter[str] = Counter()
"""Operators computed on the device by each test file that runs on it."""

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default, aten.set_.source_Tensor}


LOW_PRECISION = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention", "einsum")
FULL_PRECISION = ("softmax.int", "log_softmax.int", "cross_entropy_loss", "nll_loss", "layer_norm", "pow.Tensor_Scalar")


class SecondDeviceError(RuntimeError):
    """Raised where a GPU would refuse or wait."""


class SecondTensor(torch.Tensor):
    """A tensor on the second device; `raw` is the CPU tensor with its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> SecondTensor:
        wrapper: SecondTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        wrapper.raw = raw
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.inference_mode(False), torch.no_grad():  # a wrapper made in inference mode can't be a view
            return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, **_: Any) -> Any:
        raise SecondDeviceError("A tensor of the second device is asked for as NumPy's: copy it to the CPU first.")

    def __array__(self, *_: Any) -> Any:
        raise SecondDeviceError("A tensor of the second device is asked for as NumPy's: copy it to the CPU first.")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SecondDeviceError("A tensor of the second device is pickled: copy it to the CPU first.")

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copy = SecondTensor(self.raw.clone())
            is_parameter = isinstance(self, torch.nn.Parameter) or getattr(self, "_is_param", False)
            memo[id(self)] = torch.nn.Parameter(copy, requires_grad=self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    @property
    def data(self) -> Any:
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = unwrap(value)

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    def storage(self) -> Any:
        return self.raw.storage()

    def _typed_storage(self) -> Any:
        return self.raw._typed_storage()  # type: ignore[attr-defined]

    def is_shared(self) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:
        return f"SecondTensor({tuple(self.raw.shape)}, {self.raw.dtype})"


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on the wrapped tensors. Raises SecondDeviceError if it mixes devices as a GPU would refuse."""
    if func in MOVES:
        return move(func, args, dict(kwargs))
    parts = func.decompose(*args, **kwargs)  # in inference mode operators come here whole
    if parts is not NotImplemented:
        return parts
    values = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    strangers = [value for value in values if not isinstance(value, SecondTensor) and value.dim() > 0]
    indexes = "index" in str(func)  # a GPU's tensor takes indices of the CPU
    if strangers and not indexes and any(isinstance(value, SecondTensor) for value in values):
        raise SecondDeviceError(f"{func} mixes devices: {[tuple(value.shape) for value in strangers]} are on the CPU.")
    OPERATORS[CURRENT[0]] += any(isinstance(value, SecondTensor) for value in values)
    kwargs = dict(kwargs)
    if func is aten.histc.default and not args[0].is_floating_point():  # a GPU counts whole numbers, the CPU does not
        return compute(func, (args[0].double(), *args[1:]), kwargs).to(args[0].dtype)
    is_here = True
    if kwargs.get("device") is not None:
        is_here = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = torch.device("cpu")
    result = func(*pytree.tree_map(unwrap, args), **pytree.tree_map(unwrap, kwargs))
    of_raw = {id(value.raw): value for value in values if isinstance(value, SecondTensor)}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_here:
            return value
        # an operator in place returns its own argument
        return of_raw[id(value)] if id(value) in of_raw else SecondTensor(value)

    return pytree.tree_map(wrap, result)


def move(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copy between the devices."""
    device = kwargs.pop("device", None)
    result = func(*pytree.tree_map(unwrap, args), **pytree.tree_map(unwrap, kwargs))
    if func is not aten._to_copy.default:
        return args[0] if func is not aten._copy_from.default else args[1]
    is_here = isinstance(args[0], SecondTensor) if device is None else torch.device(device).type == NAME
    return SecondTensor(result) if is_here else result


def unwrap(value: Any) -> Any:
    return value.raw if isinstance(value, SecondTensor) else value


class DeviceModule(ModuleType):
    """`torch.second`: what torch and transformers ask of a device's module."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_bf16_supported = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_device_name(self, device: Any = None) -> str:
        return "Second device"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()  # it draws from the CPU's generator

    def _is_in_bad_fork(self) -> bool:
        return False

    def nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    set_device = manual_seed = manual_seed_all = set_rng_state = synchronize = empty_cache = nothing


def install() -> torch.device:
    """Register the device, once a process, and return it."""
    global DEVICE
    if DEVICE.type == NAME:
        return DEVICE
    _setup_privateuseone_for_python_backend(NAME, backend_module=DeviceModule(f"torch.{NAME}"))
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    for name in ("eye", "eye.m"):  # torch grows an empty tensor in place, which a wrapper can't follow
        library.impl(name, eye, "PrivateUse1")
    install.libraries = [library, *autocast_libraries()]  # type: ignore[attr-defined]  # registrations end with them
    memory = {
        "get_memory_info": lambda device=None: (MEMORY_BYTES, MEMORY_BYTES),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
    }
    for name, function in memory.items():
        setattr(torch.accelerator, name, function)
    # a network that moves keeps its parameters, so that tied ones stay tied, as on a GPU
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.Tensor.pin_memory = lambda self, device=None: self  # type: ignore[method-assign,assignment]
    DEVICE = torch.device(NAME, 0)
    return DEVICE


def autocast_libraries() -> list[torch.library.Library]:
    """Register mixed precision: the products and the operators that torch's autocast computes in 16 bits on a GPU, and
    those that it computes in 32.
    """
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    cast = torch.library.Library("aten", "IMPL")
    for name in LOW_PRECISION:
        cast.impl(name, partial(autocast, name, None), "AutocastPrivateUse1")
    for name in FULL_PRECISION:
        cast.impl(name, partial(autocast, name, torch.float32), "AutocastPrivateUse1")
    return [others, cast]


def autocast(name: str, dtype: torch.dtype | None, *args: Any, **kwargs: Any) -> Any:
    """Run an operator with its floating-point tensors in `dtype`, or that of the autocast in force."""
    dtype = dtype or torch.get_autocast_dtype(NAME)
    packet, _, overload = name.partition(".")

    def to_dtype(value: Any) -> Any:
        is_cast = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64
        return value.to(dtype) if is_cast else value

    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(key):
        operator = getattr(getattr(aten, packet), overload or "default")
        return operator(*pytree.tree_map(to_dtype, args), **pytree.tree_map(to_dtype, kwargs))


def write_entry_point(folder: Path) -> Path:
    """Write what makes torch install the device when it is imported, with this folder on PYTHONPATH: a package's entry
    point, as makers of devices outside of torch have it. Returns the folder.
    """
    (package := folder / f"{NAME}_device-1.dist-info").mkdir(parents=True)
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}_device\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[torch.backends]\n{NAME} = {__name__}:install\n")
    return folder


def empty(size: Any, **options: Any) -> torch.Tensor:
    known = {name: options[name] for name in ("dtype", "layout", "memory_format") if options.get(name) is not None}
    with torch.inference_mode(False):
        return SecondTensor(torch.empty(size, **known))


def empty_strided(size: Any, stride: Any, **options: Any) -> torch.Tensor:
    with torch.inference_mode(False):
        return SecondTensor(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def eye(*size: int, **options: Any) -> torch.Tensor:
    with torch.inference_mode(False):
        return SecondTensor(torch.eye(*size, dtype=options.get("dtype")))


def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        unwrap(target).copy_(unwrap(source))
    return target


def pytest_configure() -> None:
    install()


def pytest_runtest_setup(item: Any) -> None:
    CURRENT[0] = item.location[0]
    OPERATORS[CURRENT[0]] += 0


def pytest_sessionfinish(session: Any) -> None:
    """Hand a worker's counts to the process that reports, or fail for a file that computes nothing on the device."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["operators"] = dict(OPERATORS)
    elif session.exitstatus == 0 and not all(OPERATORS.values()):
        session.exitstatus = 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    OPERATORS.update(getattr(node, "workeroutput", {}).get("operators", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List what ran on the device; a file that computes nothing there fails."""
    terminalreporter.section("operators on the second device")
    for file, count in sorted(OPERATORS.items()):
        terminalreporter.write_line(f"{count:>9,} {file}{'' if count else '  FAILED: nothing ran on the device'}")
