"""The compiled loops of kernels.py, loaded without their compiler.

numba costs half a second to wake, ten times what the arithmetic of a small model takes. So it is woken once on a
machine: its object code is kept (beside kernels.py, or in the user's cache where that cannot be written) and loaded
from then on by llvmlite alone. The file's name holds the hash of the source, of the compilers' versions and of the
processor, so that nothing stale is ever called.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medsmith.errors import UserError
from merge_recipes.layout import scratch_words

LOG = logging.getLogger(__name__)

SOURCES = ("kernels.py", "blocks.py", "layout.py", "native.py")
C_TYPES = {"int": ctypes.c_int64, "float": ctypes.c_double}

_local = threading.local()
_engines: list[Any] = []
"""An engine takes its code with it when it is forgotten; these are not."""


class Loops:
    """The loops by name: `loops.combine(…)` as kernels.combine is declared, less the scratch memory at the end.

    A call lets go of the interpreter's lock. Arrays may be given for their addresses.
    """

    def __init__(self, code: dict[str, Any]) -> None:
        """Load object code: {name: {symbol, arguments, object}}."""
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        _engines.append(engine)
        for one in code.values():
            engine.add_object_file(llvm.ObjectFileRef.from_data(base64.b64decode(one["object"])))
        engine.finalize_object()
        for name, one in code.items():
            address = engine.get_function_address(one["symbol"])
            setattr(self, name, _caller(address, one["arguments"]))

    def __getattr__(self, name: str) -> Callable[..., int]:
        """Only for what was not loaded."""
        raise AttributeError(name)


def _caller(address: int, arguments: list[str]) -> Callable[..., int]:
    """A Python function for numba's calling convention: (result, exception, arguments…) -> status."""
    kinds: list[Any] = [C_TYPES[name] for name in arguments]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)(address)

    def call(*given: Any, experts: int = 1) -> int:
        result, exception = ctypes.c_int64(0), ctypes.c_void_p(0)
        values = [value.ctypes.data if isinstance(value, np.ndarray) else value for value in given]
        status = function(ctypes.addressof(result), ctypes.addressof(exception), *values, scratch(experts))
        assert status == 0, "the loops raise nothing"
        return result.value

    return call


def scratch(experts: int) -> int:
    """The address of this thread's own memory for a loop over so many experts."""
    held = getattr(_local, "words", None)
    if held is None or len(held) < scratch_words(experts):
        _local.words = held = np.empty(scratch_words(experts), np.uint32)
    return int(held.ctypes.data)


_loading = threading.Lock()


def loops() -> Loops:
    """The loops, loaded once a process; compiled first where this machine has none of this source yet.

    Raises:
        UserError: they cannot be compiled here.
    """
    # One engine for good: of two that threads had made at the same time, the one forgotten takes its code with it.
    with _loading:
        return _load()


@functools.cache
def _load() -> Loops:
    """Read the object code that is kept, or compile it and keep it."""
    name = f"loops-{_fingerprint()}.json"
    places = [Path(__file__).parent / "__pycache__", _user_cache()]
    for place in places:
        try:
            return Loops(json.loads((place / name).read_text()))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError):
            LOG.warning("%s cannot be read; compiling the merge loops again", place / name)
    LOG.info("compiling the merge loops, once on this machine (some ten seconds)")
    code = _compile()
    for place in places:
        try:
            _keep(place / name, json.dumps(code))
            break
        except OSError:
            continue
    return Loops(code)


def _fingerprint() -> str:
    parts = [(Path(__file__).parent / source).read_bytes() for source in SOURCES]
    parts += [importlib.metadata.version(name).encode() for name in ("numba", "llvmlite")]
    import llvmlite.binding as llvm

    parts += [platform.machine().encode(), llvm.get_host_cpu_name().encode()]
    parts.append(llvm.get_host_cpu_features().flatten().encode())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medsmith"


def _keep(path: Path, text: str) -> None:
    """Put the file in place whole: two processes may be compiling at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def _compile() -> dict[str, Any]:
    try:
        from numba import float64, int64

        from merge_recipes.kernels import LOOPS
    except ImportError as error:
        raise UserError(
            f"engine=stream needs numba ({error}); install 'medsmith[merge]' or use engine=mergekit"
        ) from None
    import llvmlite.binding as llvm

    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    kinds = {"int": int64, "float": float64}
    code = {}
    for loop in LOOPS:
        notes = loop.py_func.__annotations__
        arguments = [note for name, note in notes.items() if name != "return"]
        signature = int64(*(kinds[note] for note in arguments))
        loop.compile(signature.args)
        compiled = loop.overloads[signature.args]
        symbol = compiled.fndesc.llvm_func_name
        module = llvm.parse_assembly(compiled.library.get_llvm_str())
        # The function alone: what numba wraps around it for Python calls numba, which will not be there.
        for function in module.functions:
            if not function.is_declaration and function.name != symbol:
                function.linkage = "internal"
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(module, passes)
        code[loop.__name__] = {
            "symbol": symbol,
            "arguments": arguments,
            "object": base64.b64encode(machine.emit_object(module)).decode(),
        }
    return code
