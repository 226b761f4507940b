"""Checkpoints made to harm whoever adds them as a base, and a process that tries: `python -m
tests.support.hostile_checkpoints FOLDER`.

`make_all` writes every case below a folder. The process then adds each in a child of its own, as a worker's job does,
within a limit on memory and time, and prints one JSON object a case.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.networks.base_folders import edit_header, edit_json, save_base, save_gguf

LIMIT_S = 60
"""Processor time of a case."""
PATIENCE_S = 300
LIMIT_BYTES = 3 * 2**30
Make = Callable[[Path], Any]

DEEP = "[" * 200_000 + "]" * 200_000
BOMB = "{% set s=('b'*10000).join('a'*40000) %}"


def _tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def _added(**fields: Any) -> dict[str, Any]:
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {**whole, "id": 300, "content": "x", **fields}


def _pattern(pattern: str) -> Make:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda folder: _tokenizer(folder, lambda data: data.update(pre_tokenizer=split))


def _normalizer(normalizer: dict[str, Any]) -> Make:
    return lambda folder: _tokenizer(folder, lambda data: data.update(normalizer=normalizer))


def _config(**changes: Any) -> Make:
    return lambda folder: edit_json(folder / "config.json", **changes)


def _raw_header(text: bytes, *, length: int | None = None) -> Make:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(
            struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * 64
        )

    return make


def _entry(**changes: Any) -> Make:
    def make(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        name = next(name for name in header if name != "__metadata__")
        edit_header(file, **{name: {**header[name], **changes}})

    return make


FOLDERS: dict[str, Make] = {
    # configs
    "config: a million layers": _config(num_hidden_layers=1_000_000),
    "config: a huge vocabulary": _config(vocab_size=2**40),
    "config: a huge width": _config(hidden_size=2**31, intermediate_size=2**31),
    "config: a huge context": _config(max_position_embeddings=2**40),
    "config: negative sizes": _config(hidden_size=-32, num_attention_heads=-4),
    "config: no heads": _config(num_attention_heads=0),
    "config: sizes as words": _config(hidden_size="many", num_hidden_layers="some"),
    "config: sizes as lists": _config(hidden_size=[32, 32], num_attention_heads={"a": 1}),
    "config: a fraction of a layer": _config(num_hidden_layers=1.5),
    "config: numbers beyond all": _config(rms_norm_eps=1e400, rope_theta=1e308),
    "config: nested deeply": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "llama", "x": ' + DEEP + "}")
    ),
    "config: a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config: empty": lambda folder: (folder / "config.json").write_text(""),
    "config: binary": lambda folder: (folder / "config.json").write_bytes(bytes(range(256)) * 100),
    "config: a number of many digits": (
        lambda folder: (folder / "config.json").write_text(
            '{"model_type": "llama", "vocab_size": ' + "9" * 1_000_000 + "}"
        )
    ),
    "config: code of its own": _config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
    "config: a family of functions": _config(model_type="__class__"),
    "config: a foreign attention": _config(_attn_implementation="evil/kernel", attn_implementation="evil/kernel"),
    "config: quantised by a plugin": _config(quantization_config={"quant_method": "evil"}),
    "config: a nested text config": _config(text_config={"num_hidden_layers": 2**40}),
    "config: a strange rope": _config(rope_scaling={"rope_type": "evil", "factor": 2**60}),
    "generation: nested deeply": lambda folder: (folder / "generation_config.json").write_text(DEEP),
    # weights
    "weights: a header of 2^63 bytes": _raw_header(b"{}", length=2**63),
    "weights: a header of 90 MB": _raw_header(b"{" + b" " * 90_000_000 + b"}"),
    "weights: a header of nothing": _raw_header(b"", length=0),
    "weights: no JSON": _raw_header(b"\xff" * 1000),
    "weights: a deep header": _raw_header(DEEP.encode()),
    "weights: twice the same name": _raw_header(
        b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "weights: an absurd shape": _entry(shape=[2**47, 2**47]),
    "weights: a negative shape": _entry(shape=[-262, 32]),
    "weights: a shape of many dimensions": _entry(shape=[1] * 100_000),
    "weights: negative offsets": _entry(data_offsets=[-64, 0]),
    "weights: offsets turned round": _entry(data_offsets=[4096, 0]),
    "weights: offsets that overlap": _entry(data_offsets=[4, 33540]),
    "weights: offsets beyond the file": _entry(data_offsets=[0, 2**62]),
    "weights: offsets as words": _entry(data_offsets=["a", "b"]),
    "weights: an unknown number format": _entry(dtype="PICKLE"),
    "weights: cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    ),
    "weights: hundreds of thousands of tensors": lambda folder: _raw_header(
        json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}).encode()
    )(folder),
    "weights: an index that leads out": lambda folder: (
        (folder / "model.safetensors").rename(folder / "model-1.safetensors"),
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../../etc/passwd"}})),
    ),
    "weights: an index of itself": lambda folder: (
        (folder / "model.safetensors").rename(folder / "model-1.safetensors"),
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": [["a"]] * 1000})),
    ),
    "weights: a pickle in disguise": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    ),
    "weights: a link out": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors").symlink_to("/etc/passwd"),
    ),
    # tokenizers
    "tokenizer: nested deeply": (
        lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0", "model": ' + DEEP + "}")
    ),
    "tokenizer: binary": lambda folder: (folder / "tokenizer.json").write_bytes(bytes(range(256)) * 1000),
    "tokenizer: an id of 2^32 - 1": lambda folder: _tokenizer(
        folder, lambda data: data["model"]["vocab"].update(huge=2**32 - 1)
    ),
    "tokenizer: an id of 2^40": lambda folder: _tokenizer(
        folder, lambda data: data["model"]["vocab"].update(huge=2**40)
    ),
    "tokenizer: a negative id": lambda folder: _tokenizer(folder, lambda data: data["model"]["vocab"].update(huge=-1)),
    "tokenizer: an added id of 2^32 - 1": lambda folder: _tokenizer(
        folder, lambda data: data["added_tokens"].append(_added(id=2**32 - 1))
    ),
    "tokenizer: an added token of 20 MB": lambda folder: _tokenizer(
        folder, lambda data: data["added_tokens"].append(_added(content="a" * 20_000_000))
    ),
    "tokenizer: 200,000 added tokens": lambda folder: _tokenizer(
        folder, lambda data: data["added_tokens"].extend(_added(id=300 + n, content=f"<{n}>") for n in range(200_000))
    ),
    "tokenizer: an added token of nothing": lambda folder: _tokenizer(
        folder, lambda data: data["added_tokens"].append(_added(content=""))
    ),
    "tokenizer: merges of missing tokens": lambda folder: _tokenizer(
        folder, lambda data: data["model"].update(type="BPE", merges=[["no", "pe"]] * 1000)
    ),
    "tokenizer: a pattern that backtracks": _pattern(r"(a+)+$"),
    "tokenizer: a pattern of nested stars": _pattern(r"((\s*)*)*x"),
    "tokenizer: a pattern of alternatives": _pattern(r"(a|a|aa)+\b!"),
    "tokenizer: a pattern of lookaheads": _pattern("(?=" * 5000 + "a" + ")" * 5000),
    "tokenizer: a pattern that counts": _pattern(r"(a{0,30000}){0,30000}b"),
    "tokenizer: no pattern": _pattern("(["),
    "tokenizer: text that grows": _normalizer(
        {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 1_000_000}
    ),
    "tokenizer: text that grows in steps": _normalizer(
        {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "aaaaaaaaaa"}] * 12,
        }
    ),
    "tokenizer: prefixes without end": _normalizer(
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 100}] * 5000}
    ),
    "tokenizer: a config of code": lambda folder: edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
        tokenizer_class="EvilTokenizer",
    ),
    "tokenizer: a class of another kind": lambda folder: edit_json(
        folder / "tokenizer_config.json", tokenizer_class="os.system"
    ),
    "tokenizer: special tokens of wrong types": lambda folder: edit_json(
        folder / "tokenizer_config.json", bos_token=[1], eos_token={"a": 1}, added_tokens_decoder={"x": 1}
    ),
    "tokenizer: a huge padding": lambda folder: _tokenizer(
        folder,
        lambda data: data.update(
            padding={
                "strategy": {"Fixed": 2**40},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        ),
    ),
    "tokenizer: only a slow one": lambda folder: (
        (folder / "tokenizer.json").unlink(),
        (folder / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x0f" + b"a" * 1000),
    ),
    # templates and cards
    "template: a bomb": lambda folder: (folder / "chat_template.jinja").write_text(BOMB),
    "template: the sandbox left": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    ),
    "template: 20 MB": lambda folder: (folder / "chat_template.jinja").write_text("x" * 20_000_000),
    "template: nested deeply": lambda folder: (folder / "chat_template.jinja").write_text("{% if x %}" * 5000),
    "card: YAML that grows": (
        lambda folder: (folder / "README.md").write_text(
            "---\na: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9))
            + "license: *j\n---\n"
        )
    ),
    "card: YAML that runs code": (
        lambda folder: (folder / "README.md").write_text(
            "---\nlicense: !!python/object/apply:os.system ['touch pwned']\n---\n"
        )
    ),
}


def _gguf(data: bytes) -> Make:
    return lambda file: file.write_bytes(b"GGUF" + data)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(name: str, kind: int, data: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + data


def _whole(values: list[bytes], tensors: list[bytes], *, counts: tuple[int, int] | None = None) -> bytes:
    num_tensors, num_values = counts or (len(tensors), len(values))
    return struct.pack("<IQQ", 3, num_tensors, num_values) + b"".join(values) + b"".join(tensors) + b"\0" * 4096


ARCHITECTURE = _value("general.architecture", 8, _text("llama"))
GGUFS: dict[str, Make] = {
    "gguf: 2^63 tensors": _gguf(_whole([ARCHITECTURE], [], counts=(2**63, 1))),
    "gguf: 2^63 settings": _gguf(_whole([ARCHITECTURE], [], counts=(1, 2**63))),
    "gguf: a name of 2^62 bytes": _gguf(struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 2**62) + b"a" * 100),
    "gguf: a list of 2^62 numbers": _gguf(_whole([_value("a", 9, struct.pack("<IQ", 4, 2**62))], [])),
    "gguf: a list of 2^62 texts": _gguf(_whole([_value("a", 9, struct.pack("<IQ", 8, 2**62))], [])),
    "gguf: lists of lists": _gguf(_whole([_value("a", 9, struct.pack("<IQ", 9, 1) * 100_000)], [])),
    "gguf: an unknown kind": _gguf(_whole([_value("a", 77, b"")], [])),
    "gguf: version 9": _gguf(struct.pack("<IQQ", 9, 0, 0)),
    "gguf: cut short": _gguf(b"\x03\0\0"),
    "gguf: a tensor of 2^63 numbers": _gguf(
        _whole(
            [ARCHITECTURE],
            [
                _text("t")
                + struct.pack("<I", 4)
                + struct.pack("<QQQQ", 2**62, 2**62, 2**62, 2**62)
                + struct.pack("<IQ", 0, 0)
            ],
        )
    ),
    "gguf: a tensor of 2^31 dimensions": _gguf(_whole([ARCHITECTURE], [_text("t") + struct.pack("<I", 2**31)])),
    "gguf: an unknown number format": _gguf(
        _whole([ARCHITECTURE], [_text("t") + struct.pack("<I", 1) + struct.pack("<Q", 4) + struct.pack("<IQ", 9999, 0)])
    ),
    "gguf: an offset of 2^63": _gguf(
        _whole(
            [ARCHITECTURE], [_text("t") + struct.pack("<I", 1) + struct.pack("<Q", 4) + struct.pack("<IQ", 0, 2**63)]
        )
    ),
    "gguf: a network of nothing": _gguf(_whole([_value("general.architecture", 8, _text("\0evil/../x"))], [])),
    "gguf: no GGUF": lambda file: file.write_bytes(b"\x7fELF" + b"\0" * 1000),
}


def make_all(folder: Path) -> dict[str, Path]:
    """Write every case; return their paths by name. The name `good` is a checkpoint that may be added."""
    good = save_base(folder / "good")
    words = [*"abcdefgh t", *(f"w{n}" for n in range(300))]
    paths = {"good": good, "good gguf": save_gguf(folder / "good.gguf", words=["<|end|>", *words])}
    for number, (name, make) in enumerate(FOLDERS.items()):
        paths[name] = folder / f"case-{number}"
        shutil.copytree(good, paths[name])
        make(paths[name])
    for number, (name, make) in enumerate(GGUFS.items()):
        paths[name] = folder / f"case-{number}.gguf"
        make(paths[name])
    return paths


def try_all(folder: Path) -> None:
    """Add every case in a child of its own; print a JSON object for each."""
    paths = make_all(folder / "cases")
    _warm_up(paths["good"], folder)
    for name, path in paths.items():
        print(json.dumps({"name": name, **_try(path, folder)}), flush=True)


def _warm_up(good: Path, folder: Path) -> None:
    """Import and cache here what every child would otherwise do again. One thread, since what is forked must hold no
    others.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import gguf
    import torch

    del gguf
    torch.set_num_threads(1)
    from jobs.modeling.entries.base import run
    from tests.support.jobs import MemoryReporter, make_spec

    run(make_spec("add_base", {"source": str(good), "out": "bases/warm"}, root=folder / "artifacts"), MemoryReporter())


def _try(path: Path, folder: Path) -> dict[str, Any]:
    began, outcome = time.monotonic(), folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    out = folder / "artifacts" / "bases" / path.name
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _add(path, folder, outcome)
        finally:
            os._exit(status)
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0 and time.monotonic() - began < PATIENCE_S:
        time.sleep(0.02)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        ended = os.wait4(child, 0)
    reported = json.loads(outcome.read_text()) if outcome.exists() else {"ended": f"status {ended[1]}", "words": ""}
    left = (
        sorted(entry.name for entry in out.parent.glob("*") if path.name in entry.name)
        if reported["ended"] != "added"
        else []
    )
    shutil.rmtree(out.parent, ignore_errors=True)
    used = ended[2]
    return {
        **reported,
        "processor_s": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss // 1024,
        "left": left,
    }


def _add(path: Path, folder: Path, outcome: Path) -> int:
    from backend.errors import RoundhouseError
    from jobs.memory_limit import limit_this_process
    from jobs.modeling.entries.base import run
    from tests.support.jobs import MemoryReporter, make_spec

    limit_this_process(LIMIT_BYTES, uses_gpu=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    spec = make_spec("add_base", {"source": str(path), "out": f"bases/{path.name}"}, root=folder / "artifacts")
    try:
        run(spec, MemoryReporter())
        reported = {"ended": "added", "words": ""}
    except RoundhouseError as error:
        reported = {"ended": "refused", "words": str(error)}
    except BaseException as error:
        reported = {"ended": f"crashed: {type(error).__name__}", "words": str(error)[:300]}
    outcome.write_text(json.dumps(reported))
    return 0


if __name__ == "__main__":
    try_all(Path(sys.argv[1]))
