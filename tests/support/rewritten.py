"""Compile all test modules once, as pytest does it for its `assert`: `python -m tests.support.rewritten`.

In a new clone each process of a parallel run would compile each of them, at the same time: seven seconds of a core a
process.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from _pytest.assertion import rewrite

ROOT = Path(__file__).resolve().parents[1]


def cache_of(path: Path) -> Path:
    """Return where pytest keeps a compiled test module."""
    return rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"


def compile_test(path: Path) -> None:
    """Compile a test module, unless that is done."""
    compiled = cache_of(path)
    if rewrite._read_pyc(path, compiled) is None:
        compiled.parent.mkdir(exist_ok=True)
        source_hash, code = rewrite._rewrite_test(path, None)  # type: ignore[arg-type]
        rewrite._write_pyc(None, code, source_hash, compiled)  # type: ignore[arg-type]


if __name__ == "__main__":
    tests = [path for path in ROOT.rglob("*.py") if path.name.startswith("test_") or path.name == "conftest.py"]
    with multiprocessing.Pool() as pool:
        pool.map(compile_test, tests, chunksize=8)
