"""The only module that uses wgpu-py: lists adapters, opens a device.

wgpu-py's names and limits have changed between minor releases, so it is pinned to one (the extra ``webgpu``). It is
imported only in engine processes and in a child process that lists the adapters, because a GPU driver that crashes must
not end the web process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from webapp.backends.machine import DriverFailed, printed_by
from webapp.engine.backend import Availability
from webapp.errors import BackendUnavailable, EngineCrashed, OutOfMemory, RoostError
from webapp.i18n import Text

PACKAGE = "wgpu"
INSTALL = '"rwkv-roost[webgpu]"'
CPU_VARIABLE = "ROOST_WEBGPU_CPU"
"""1 also allows adapters that run on the CPU (lavapipe, SwiftShader, WARP): for tests, much slower than the native
engine."""
APIS = ("Vulkan", "Metal", "D3D12")
"""Never OpenGL, which is wgpu-native's fallback."""
KINDS = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "cpu"}
BEST = ("discrete", "integrated", "other", "cpu")
LIMITS = ("max-storage-buffer-binding-size", "max-buffer-size")
UNIFORM_SLICE = 256
"""Bytes: an alignment that every adapter supports."""
BINDING = re.compile(r"@binding\((\d+)\) var<(uniform|storage, read_write|storage, read)>")
LAYOUT = {"uniform": "uniform", "storage, read": "read-only-storage", "storage, read_write": "storage"}


class Adapter(Struct, frozen=True):
    """``kind``: discrete, integrated, cpu or other. ``api``: one of :data:`APIS`. ``binding_bytes``: the largest part
    of a buffer that a shader can access. ``memory_bytes``: of the GPU, 0 if unknown."""

    name: str
    kind: str
    api: str
    driver: str = ""
    binding_bytes: int = 0
    memory_bytes: int = 0

    @property
    def uses_main_memory(self) -> bool:
        return self.kind in ("integrated", "cpu")


def availability() -> Availability:
    """Whether wgpu-py is installed and finds a GPU."""
    if sys.version_info < (3, 11) and importlib.util.find_spec(PACKAGE) is None:
        version = ".".join(map(str, sys.version_info[:2]))
        reason = Text("reason.webgpu.python_is_too_old", version=version)
        return Availability(False, reason, Text("reason.webgpu.use_newer_python"))
    if importlib.util.find_spec(PACKAGE) is None:
        reason = Text("reason.backends.package_not_installed", package=PACKAGE)
        return Availability(False, reason, Text("reason.backends.run_pip_install", package=INSTALL))
    found = listed()
    if isinstance(found, str):
        return Availability(
            False, Text("reason.webgpu.does_not_start", error=found), Text("reason.webgpu.update_driver")
        )
    if choices():
        return Availability(True)
    if found:
        reason = Text("reason.webgpu.only_software", name=found[0].name)
        return Availability(False, reason, Text("reason.webgpu.allow_software", variable=CPU_VARIABLE))
    return Availability(False, Text("reason.webgpu.no_adapter"), Text("reason.webgpu.install_driver"))


def choices() -> list[Adapter]:
    """The adapters a model may run on, the best first."""
    found = listed()
    return [] if isinstance(found, str) else usable(found, os.environ.get(CPU_VARIABLE) == "1")


def usable(found: Sequence[Adapter], with_cpu: bool) -> list[Adapter]:
    """Adapters with an API in :data:`APIS`, each GPU once, discrete GPUs first."""
    kept = {adapter.name: adapter for adapter in reversed(found) if adapter.api in APIS}
    rows = [adapter for adapter in found if kept.get(adapter.name) is adapter and (with_cpu or adapter.kind != "cpu")]
    return sorted(rows, key=lambda adapter: BEST.index(adapter.kind))


def choose(wanted: str, rows: Sequence[Adapter]) -> Adapter | None:
    """The adapter whose name contains ``wanted``, ignoring case; the best if it is empty. None if there is none."""
    return next((row for row in rows if wanted.lower() in row.name.lower()), None)


@functools.cache
def listed() -> tuple[Adapter, ...] | str:
    """All adapters, listed by a child process once in this process's lifetime; or its output if it failed."""
    if sys.platform == "linux" and not _has_vulkan_driver():
        return ()
    try:
        return tuple(Adapter(**row) for row in printed_by(__name__))
    except (DriverFailed, TypeError) as exc:
        return str(exc)


def _has_vulkan_driver() -> bool:
    """Whether any driver is registered for Vulkan's loader; avoids the child process on a server without GPU."""
    if os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES"):
        return True
    folders = ["/etc", "/usr/share", "/usr/local/share", "/usr/local/etc", os.path.expanduser("~/.local/share")]
    folders += filter(None, os.environ.get("XDG_DATA_DIRS", "").split(":"))
    for folder in folders:
        with contextlib.suppress(OSError):
            if os.listdir(os.path.join(folder, "vulkan", "icd.d")):
                return True
    return False


def _vulkan_memory() -> dict[str, int]:
    """Memory of each GPU in bytes, by name, from Vulkan (WebGPU does not report it). Empty without Vulkan's loader.

    The structs are those of vulkan_core.h, read at their offsets: VkInstanceCreateInfo is empty but for its type (1); a
    VkPhysicalDeviceProperties has its name at 20, a VkPhysicalDeviceMemoryProperties the number of heaps at 260 and
    from 264 on 16 bytes a heap, its size and its flags (1: the device's own).
    """
    try:
        vulkan = ctypes.CDLL("vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1")
    except OSError:
        return {}
    instance, count, found = ctypes.c_void_p(), ctypes.c_uint32(), {}
    if vulkan.vkCreateInstance(struct.pack("I60x", 1), None, ctypes.byref(instance)):
        return {}
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    for device in devices[: count.value]:
        about, memory = ctypes.create_string_buffer(1024), ctypes.create_string_buffer(1024)
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), about)
        vulkan.vkGetPhysicalDeviceMemoryProperties(ctypes.c_void_p(device), memory)
        (heaps,) = struct.unpack_from("I", memory, 260)
        sizes = (struct.unpack_from("QI", memory, 264 + 16 * heap) for heap in range(heaps))
        name = ctypes.string_at(ctypes.byref(about, 20)).decode("utf-8", "replace")
        found[name] = sum(size for size, flags in sizes if flags & 1)
    vulkan.vkDestroyInstance(instance, None)
    return found


def _wgpu() -> Any:
    """wgpu-py, configured without OpenGL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import wgpu
    from wgpu.backends.wgpu_native import extras

    global _is_limited
    if not _is_limited:
        _is_limited = True
        extras.set_instance_extras(backends=["Vulkan", "Metal", "DX12"])
    return wgpu


_is_limited = False


def _enumerate() -> list[tuple[Adapter, Any]]:
    found, memory = [], _vulkan_memory()
    for one in _wgpu().gpu.enumerate_adapters_sync():
        info = one.info
        row = Adapter(
            name=str(info["device"]),
            kind=KINDS.get(str(info["adapter_type"]), "other"),
            api=str(info["backend_type"]),
            driver=str(info["description"]),
            binding_bytes=int(one.limits[LIMITS[0]]),
            memory_bytes=memory.get(str(info["device"]), 0),
        )
        found.append((row, one))
    return found


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Converts wgpu-py's errors. The state of a device after an error is unknown, so any error except out of memory
    ends the engine, which then restarts and loads the model again."""
    try:
        yield
    except RoostError:
        raise
    except Exception as exc:
        if isinstance(exc, MemoryError) or "memory" in type(exc).__name__.lower():
            raise OutOfMemory(reason=Text("reason.webgpu.memory_ran_out")) from exc
        if not type(exc).__module__.startswith(PACKAGE) and not isinstance(exc, RuntimeError):
            raise
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise EngineCrashed(reason=Text("reason.webgpu.device_failed", error=lines[0])) from exc


Place = tuple[Any, int, int]
"""A part of a buffer: the buffer, first byte, number of bytes."""


class Gpu:
    """An opened device. Used from one thread; pipelines are compiled in another."""

    def __init__(self, wanted: str = "") -> None:
        found = _enumerate()
        allowed = usable([row for row, _ in found], os.environ.get(CPU_VARIABLE) == "1")
        chosen = choose(wanted, allowed)
        if chosen is None:
            reason = Text("reason.webgpu.no_such_adapter", name=wanted) if wanted else Text("reason.webgpu.no_adapter")
            names = ", ".join(row.name for row in allowed)
            way_out = Text("reason.webgpu.adapters_are", names=names) if names else Text("reason.webgpu.install_driver")
            raise BackendUnavailable(backend="webgpu", reason=reason, way_out=way_out)
        self.adapter = chosen
        opened = next(one for row, one in found if row is chosen)
        with guarded():
            self._device = opened.request_device_sync(required_limits={name: opened.limits[name] for name in LIMITS})
        self.binding_bytes = int(opened.limits[LIMITS[0]])
        self._usage = _wgpu().BufferUsage
        self._pipelines: dict[str, Future[Any]] = {}
        self._compiler = ThreadPoolExecutor(1, "webgpu-compile")
        self.allocated_bytes = self.read_bytes = 0
        """Total size of all buffers; bytes read back so far."""

    def buffer(self, nbytes: int, is_uniform: bool = False) -> Any:
        """Filled with zeros. Raises OutOfMemory."""
        size = max(16, -(-nbytes // 16) * 16)
        usage = self._usage.UNIFORM if is_uniform else self._usage.STORAGE
        with guarded():
            made = self._device.create_buffer(size=size, usage=usage | self._usage.COPY_SRC | self._usage.COPY_DST)
        self.allocated_bytes += size
        return made

    def write(self, buffer: Any, offset: int, data: Any) -> None:
        """``data``: contiguous, a multiple of 4 bytes."""
        self._device.queue.write_buffer(buffer, offset, data)

    def read(self, buffer: Any, offset: int, nbytes: int) -> memoryview:
        """Waits until all submitted work is done."""
        self.read_bytes += nbytes
        return memoryview(self._device.queue.read_buffer(buffer, offset, nbytes))

    def wait(self, buffer: Any) -> None:
        """Waits until all submitted work is done (``on_submitted_work_done_sync`` raises TypeError in wgpu-py 0.32)."""
        self.read(buffer, 0, 16)

    def compile(self, code: str) -> Future[Any]:
        """(pipeline, layout of its bindings), once for each code; compiled in the background."""
        if code not in self._pipelines:
            self._pipelines[code] = self._compiler.submit(self._compiled, code)
        return self._pipelines[code]

    def compiled(self) -> tuple[int, int]:
        """How many of the requested pipelines are ready, and how many were requested."""
        return sum(each.done() for each in self._pipelines.values()), len(self._pipelines)

    def _compiled(self, code: str) -> tuple[Any, Any]:
        entries = [
            {"binding": int(number), "visibility": 4, "buffer": {"type": LAYOUT[kind]}}  # 4: compute
            for number, kind in BINDING.findall(code)
        ]
        with guarded():
            bound = self._device.create_bind_group_layout(entries=entries)
            layout = self._device.create_pipeline_layout(bind_group_layouts=[bound])
            module = self._device.create_shader_module(code=code)
            stage = {"module": module, "entry_point": "main"}
            return self._device.create_compute_pipeline(layout=layout, compute=stage), bound

    def bind(self, code: str, places: Mapping[int, Any]) -> Any:
        """Binds buffers (or :data:`Place`) to a kernel by binding number, ignoring those that the code does not use.
        Waits for its compilation."""
        wanted = {int(number) for number, _ in BINDING.findall(code)}
        entries = []
        for number in sorted(wanted):
            place = places[number]
            buffer, offset, size = place if isinstance(place, tuple) else (place, 0, place.size)
            entries.append({"binding": number, "resource": {"buffer": buffer, "offset": offset, "size": size}})
        with guarded():
            return self._device.create_bind_group(layout=self.compile(code).result()[1], entries=entries)

    def submit(self, dispatches: Sequence[tuple[Any, Any, int, int]]) -> None:
        """(pipeline, bind group, workgroups x, y), executed in order."""
        encoder = self._device.create_command_encoder()
        compute = encoder.begin_compute_pass()
        for pipeline, group, x, y in dispatches:
            compute.set_pipeline(pipeline)
            compute.set_bind_group(0, group)
            compute.dispatch_workgroups(x, y)
        compute.end()
        self._device.queue.submit([encoder.finish()])

    def copy(self, copies: Sequence[tuple[Any, int, Any, int, int]]) -> None:
        """(from, offset, to, offset, bytes)."""
        encoder = self._device.create_command_encoder()
        for each in copies:
            encoder.copy_buffer_to_buffer(*each)
        self._device.queue.submit([encoder.finish()])

    def close(self) -> None:
        """May be called again."""
        self._compiler.shutdown(cancel_futures=True)
        self._pipelines.clear()
        device, self._device = self._device, None
        if device is not None:
            device.destroy()


if __name__ == "__main__":
    print(json.dumps([asdict(row) for row, _ in _enumerate()]))
