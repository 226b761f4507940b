"""Test modules that are compiled before a run are those that pytest takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.rewritten import cache_of, compile_test


def test_pytest_takes_a_module_that_is_compiled_and_still_explains_its_asserts(tmp_path: Path) -> None:
    path = tmp_path / "test_sum.py"
    path.write_text("def test_sum():\n    three = 3\n    assert 1 + 1 == three\n")
    compile_test(path)
    compiled = cache_of(path)
    before = compiled.stat()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(path)]
    output = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    assert "assert (1 + 1) == 3" in output
    after = compiled.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it was compiled again"
    path.write_text("def test_sum():\n    assert True\n")
    compile_test(path)
    assert compiled.stat().st_ino != before.st_ino
