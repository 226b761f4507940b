"""The compiled library: refused where its structures differ, silent about exceptions, and right in every build.

A program of its own (`tests/support/native/check_decoder.cpp`) checks products and a whole layer against sums in
double, rows alone against rows together, and what is refused: also where no Python runs, as on a processor that is
emulated.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from jobs.serving.native import library as native
from jobs.serving.native.library import Batch, LayoutMismatch, Library, Matrix, try_library
from tests.support.native.completeness import skip_unless_complete

CHECK = Path("tests/support/native/check_decoder.cpp").resolve()
COMMON = ("-std=c++17", *native.ARITHMETIC, "-Wno-psabi", f"-I{native.SOURCE.parent}")
SANITIZED = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
BUILDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "this processor": ("c++", ("-O3", "-march=native", "-fopenmp"), ""),
    "AddressSanitizer and UBSan": ("c++", (*SANITIZED, "-march=native", "-fopenmp"), ""),
    "without AVX2": ("c++", ("-O3", "-march=x86-64", "-fopenmp"), ""),
    "AVX2": ("c++", ("-O3", "-march=x86-64-v3", "-fopenmp"), ""),
    "AVX-512 without VNNI": ("c++", ("-O3", "-march=x86-64-v4", "-fopenmp"), ""),
    "without OpenMP": ("c++", ("-O3", "-march=native"), ""),
    "clang": ("clang++", ("-O3", "-march=native"), ""),
    "aarch64": ("aarch64-linux-gnu-g++", ("-O3", "-static"), "qemu-aarch64"),
}
OPTIONAL = {"clang", "aarch64"}  # compilers that a machine need not have
EXPECTED = {
    "without AVX2": " threads",
    "AVX2": " AVX2 FMA F16C threads",
    "AVX-512 without VNNI": " AVX-512 AVX2 FMA F16C threads",
    "aarch64": " NEON FMA",
}


@pytest.mark.parametrize("build", BUILDS)
def test_every_build_computes_products_and_layers_and_refuses_the_same(
    build: str, library: Library, tmp_path: Path
) -> None:
    compiler, flags, runner = BUILDS[build]
    if "AVX" in build and native.platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("AVX is of x86 processors.")
    if build in EXPECTED and not set(EXPECTED[build].split()) - {"NEON"} <= {*library.features, "threads", "FMA"}:
        pytest.skip(f"This processor lacks some of{EXPECTED[build]}.")
    for program in filter(None, (compiler, runner)):
        if shutil.which(program) is None and build in OPTIONAL:
            pytest.skip(f"There is no {program}.")
        if shutil.which(program) is None:
            skip_unless_complete(f"There is no {program}.")
    program = tmp_path / "check"
    compiled = subprocess.run(
        [compiler, *COMMON, *flags, "-o", str(program), str(CHECK)], capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr[-3000:]
    run = subprocess.run([*filter(None, [runner]), str(program)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, ""), f"{run.stdout}\n{run.stderr[-3000:]}"
    processor = run.stdout.removeprefix("processor:").partition(";")[0]
    assert run.stdout.endswith("failures: 0\n")
    assert processor == EXPECTED.get(build, processor)


@pytest.fixture
def compiled_file(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library of this machine in a folder of its own, where it would be compiled to: without optimisation, since
    what is compiled there is only loaded.
    """
    usual = native.CACHE / f"decoder-{native._fingerprint()}.so"
    monkeypatch.setattr(native, "FLAGS", [flag.replace("-O3", "-O0") for flag in native.FLAGS])
    return Path(shutil.copy(usual, tmp_path / f"decoder-{native._fingerprint()}.so"))


def test_a_library_of_another_version_or_with_other_structures_is_refused(
    library: Library, compiled_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the same size, and two addresses of the same type the other way round
    swapped = [({"keys": "values", "values": "keys"}.get(name, name), kind) for name, kind in Batch._fields_]
    with monkeypatch.context() as changed:
        changed.setattr(native, "Batch", type("Batch", (ctypes.Structure,), {"_fields_": swapped}))
        with pytest.raises(LayoutMismatch, match=r"Batch\.\w+ \d+ for \d+, Batch\.\w+ \d+ for \d+\."):
            Library(compiled_file)
    with monkeypatch.context() as changed:
        changed.setattr(native, "VERSION", 99)
        with pytest.raises(LayoutMismatch, match="version 3 for 99"):
            Library(compiled_file)
        found = try_library(compiled_file.parent)
        assert (found.library, "version 3 for 99" in found.problem) == (None, True)
    assert Library(compiled_file).features == library.features


def test_a_file_in_the_cache_that_is_no_such_library_is_compiled_again(compiled_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int reads_float16(void) { return 1; }\n")
    subprocess.run(["c++", "-x", "c", "-shared", "-fPIC", "-o", str(compiled_file), str(source)], check=True)
    with pytest.raises(LayoutMismatch, match="does not state its structures"):
        Library(compiled_file)
    assert try_library(tmp_path).library is not None
    compiled_file.write_bytes(b"cut off")
    assert try_library(tmp_path).library is not None


def test_no_exception_leaves_the_library(library: Library) -> None:
    numbers = torch.ones(64)
    address = numbers.data_ptr()
    int8, bfloat16 = native.FORMATS[torch.int8], native.FORMATS[torch.bfloat16]
    cases = [(1, 2**62, int8)]
    if "AVX-512" not in library.features:
        cases.append((24, 2**60, bfloat16))  # allocates in threads
    for rows, inputs, weights in cases:
        matrix = Matrix(address, address, None, 4, inputs, weights)
        assert library._multiply(address, rows, matrix, address, 2) == native.NO_MEMORY


def test_what_the_library_can_not_read_is_refused_before_anything_is_computed(library: Library) -> None:
    weights = torch.ones(4, 16)
    matrix = Matrix(weights.data_ptr(), None, None, 4, 16, 9)
    with pytest.raises(ValueError, match="4 x 16 in format 9"):
        library.multiply(torch.ones(1, 16), matrix)
    matrix.format = 0
    for inputs in (torch.ones(1, 32), torch.ones(1, 16, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="is not float32 with 16 columns"):
            library.multiply(inputs, matrix)
    assert torch.equal(library.multiply(torch.ones(2, 16), matrix), torch.full((2, 4), 16.0))


def test_what_it_was_compiled_for_is_known_and_why_there_is_none(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert library.processor.startswith(native.platform.machine())
    assert "threads" in library.features
    monkeypatch.setenv("PATH", "")
    assert try_library(tmp_path).problem == "there is no C++ compiler."
