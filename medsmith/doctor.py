"""`medsmith doctor`: what this machine and environment have, and what to do about what they lack."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from medsmith import __version__
from medsmith.machine import cores, install_hint

# Module, and what needs it.
OPTIONAL = {
    "openai": "generate, judge, pair, prepare",
    "jsonschema": "generate, curate, evaluation",
    "rensa": "curate: near duplicates",
    "torch": "training, merging, evaluation",
    "transformers": "training, merging, evaluation",
    "trl": "training and alignment",
    "gguf": "models that come as GGUF files",
    "mergekit": "merging",
    "simple_icd_10_cm": "the ICD-10-CM table",
    "openpyxl": "benchmarks that come as xlsx",
    "sacrebleu": "evaluation: BLEU",
    "bert_score": "evaluation: BERTScore",
    "matplotlib": "the report's pictures",
    "huggingface_hub": "publish",
    "vllm": "fast inference on a GPU (an environment of its own is best)",
}
KEYS = ("OPENAI_API_KEY", "HF_TOKEN")


def examine() -> int:
    """Print what was found; return 1 where something that every stage needs is wrong."""
    wrong = 0
    for name, fine, text in _findings():
        print(f"{'ok  ' if fine else '--  ' if fine is None else 'BAD '} {name:18} {text}")
        wrong += fine is False
    return 1 if wrong else 0


def _findings() -> Iterator[tuple[str, bool | None, str]]:
    """Name, verdict (None: optional and absent), and words."""
    enough = sys.version_info >= (3, 11)
    yield "medsmith", True, __version__
    yield "python", enough, platform.python_version() + ("" if enough else "; 3.11 or later is needed")
    yield "cores", True, f"{cores()} of {os.cpu_count()}, {platform.machine()}"
    yield "memory", *_memory()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield "disk", free > 2, f"{free:.1f} GiB free here" + ("" if free > 2 else "; the embedded pipeline needs 2")
    yield "gpu", *_gpu()
    writable = os.access(Path.cwd(), os.W_OK)
    yield "this folder", writable, str(Path.cwd()) + ("" if writable else "; not writable: results go to out/ here")
    yield from _packages()
    yield "versions", *_against_lock(Path("requirements.lock"))
    for key in KEYS:
        yield key, True if os.environ.get(key) else None, "set" if os.environ.get(key) else "not set"
    offline = " (HF_HUB_OFFLINE is set: nothing is fetched)" if os.environ.get("HF_HUB_OFFLINE") else ""
    yield "hub", True, os.environ.get("HF_ENDPOINT", "https://huggingface.co") + offline


def _memory() -> tuple[bool, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    if text.isdigit():
        total = min(total, int(text) / 2**30)
    return total >= 4, f"{total:.1f} GiB" + ("" if total >= 4 else "; the embedded pipeline needs 4")


def _gpu() -> tuple[bool | None, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, "none; everything runs on the CPU"
    words = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        return None, "nvidia-smi fails; everything runs on the CPU"
    names = "; ".join(done.stdout.split("\n")).strip("; ")
    built = _version("torch")
    if built is None:
        return None, f"{names}; torch is not installed"
    return (None, f"{names}; but torch {built} is a CPU build") if "cpu" in built else (True, f"{names}; torch {built}")


def _packages() -> Iterator[tuple[str, bool | None, str]]:
    for module, use in OPTIONAL.items():
        version = _version(module)
        if version is not None or importlib.util.find_spec(module) is not None:
            yield module, True, version or "installed"
        else:
            yield module, None, f"absent ({use}); {install_hint(module)}"


def _against_lock(lock: Path) -> tuple[bool | None, str]:
    if not lock.is_file():
        return None, f"no {lock} here to compare with"
    differing, compared = [], 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, pinned, wanted = line.partition("#")[0].partition(";")[0].strip().partition("==")
        have = _version(name) if pinned else None
        if have is None:
            continue
        compared += 1
        if have.partition("+")[0] != wanted.partition("+")[0]:
            differing.append(f"{name} {have} (locked {wanted})")
    if differing:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        return None, f"{len(differing)} of {compared} differ from {lock}: {shown}"
    return True, f"{compared} packages as in {lock}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
