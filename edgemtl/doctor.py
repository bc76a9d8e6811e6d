"""doctor: what of that which edgemtl can use is on this machine, what is missing, and how to get it.

Nothing heavy is imported here: what must be tried is tried in a process of its own, which may crash.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from edgemtl import __version__
from edgemtl.bench.device import device_facts
from edgemtl.bench.sysfs import ROOT, field, text
from edgemtl.core.device import Device
from edgemtl.core.diagnosis import Diagnosis, Finding
from edgemtl.runtime.build import PACKAGES

TRTEXEC = Path("usr/src/tensorrt/bin/trtexec")  # where NVIDIA's packages put it, which is not on PATH
LEAST_DISK_MIB = 100  # a bundle with its calibration samples
TIMEOUT_S = 60


def diagnose(root: Path = ROOT) -> Diagnosis:
    """Look at everything. Files of the system are looked up under ``root``."""
    device = device_facts(root)
    found = (_edgemtl(), _python(), *_extras(), _onnxruntime(), _torch(root), _tensorrt(), _trtexec(root))
    machine = (_gpu(device, root), _nvml(), _board(device), _memory(root), _disk(), _qemu(device))
    return Diagnosis(findings=(*found, *machine))


def _edgemtl() -> Finding:
    return Finding("edgemtl", "ok", f"{__version__} in {Path(__file__).parent}")


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} {platform.machine()} in {sys.executable}")


def _extras() -> Iterator[Finding]:
    """The extras that a user may want, by the packages that the installed edgemtl says they need."""
    try:
        needs = metadata.requires("edgemtl") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "extras", "absent", "edgemtl is not installed, it only runs", "pip install 'edgemtl[ort]'"
        )
        return
    for extra in ("ort", "desk", "timm"):
        missing = [name for name in _packages(extra, needs) if _version(name) is None]
        fix = f"pip install 'edgemtl[{extra}]'"
        if missing:
            yield Finding(f"edgemtl[{extra}]", "absent", f"without {', '.join(missing)}", fix)
        else:
            yield Finding(f"edgemtl[{extra}]", "ok", "all of its packages")


def _onnxruntime() -> Finding:
    if find_spec("onnxruntime") is None:
        return Finding("onnxruntime", "absent", "not installed", "pip install 'edgemtl[ort]'")
    code = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"
    return _tried("onnxruntime", code, "pip install --force-reinstall onnxruntime")


def _torch(root: Path) -> Finding:
    """Imported, which takes seconds, only where a build for CUDA meets a driver; else its files tell."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        fix = "Only the desk needs it: pip install -c constraints.txt 'edgemtl[desk]'"
        return Finding("torch", "absent", "not installed", fix)
    version_file = Path(spec.origin).with_name("version.py")
    cuda = re.search(r"^cuda[^=\n]*= *'([\d.]+)'", text(version_file) or "", re.MULTILINE)
    if cuda is None:
        return Finding("torch", "ok", f"{_version('torch')}, without CUDA")
    if not (root / "proc/driver/nvidia/version").exists():
        return Finding("torch", "ok", f"{_version('torch')} for CUDA {cuda[1]}, but no driver is loaded")
    code = (
        "import torch; torch.zeros(1, device='cuda'); "
        "print(torch.__version__, 'for CUDA', torch.version.cuda, 'on', torch.cuda.get_device_name())"
    )
    return _tried(
        "torch", code, "Install a torch for the CUDA of this driver: https://pytorch.org/get-started"
    )


def _tensorrt() -> Finding:
    for module in PACKAGES:
        if find_spec(module) is not None:
            return _tried(
                "tensorrt", f"import {module} as t; print('{module}', t.__version__)", "See its log."
            )
    fix = "On a Jetson: apt-get install python3-libnvinfer; on a PC: pip install 'edgemtl[trt]'"
    return Finding("tensorrt", "absent", "not installed", fix)


def _trtexec(root: Path) -> Finding:
    path = shutil.which("trtexec") or str(root / TRTEXEC)
    if Path(path).is_file():
        return Finding("trtexec", "ok", path)
    return Finding("trtexec", "absent", "not found", "On a Jetson: apt-get install libnvinfer-bin")


def _gpu(device: Device, root: Path) -> Finding:
    smi = shutil.which("nvidia-smi")
    if device.l4t is not None:
        return Finding("gpu", "ok", f"integrated, of {device.board}")
    if smi is not None:
        query = [smi, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        return _judged("gpu", query, "Is the driver loaded? Restart after an update of it.")
    if (root / "proc/driver/nvidia/version").exists():
        return Finding("gpu", "ok", device.gpu or "NVIDIA, without nvidia-smi to name it")
    return Finding(
        "gpu", "absent", "no NVIDIA GPU with a driver", "Not needed: training and bundles run on a CPU."
    )


def _nvml() -> Finding:
    version = _version("nvidia-ml-py")
    if version is None:
        fix = "For the clocks and the power of a PC's GPU in reports: pip install nvidia-ml-py"
        return Finding("nvml", "absent", "not installed", fix)
    return Finding("nvml", "ok", f"nvidia-ml-py {version}")


def _board(device: Device) -> Finding:
    if device.board is None:
        return Finding("board", "absent", "no device tree: not a board", "Not needed.")
    releases = {"L4T": device.l4t, "JetPack": device.jetpack, "nvpmodel": device.nvpmodel}
    known = [f"{name} {value}" for name, value in releases.items() if value is not None]
    return Finding("board", "ok", ", ".join([device.board, *known]))


def _memory(root: Path) -> Finding:
    kinds = ("MemAvailable", "MemTotal")
    sizes = [field(root / "proc/meminfo", kind) for kind in kinds]
    if None in sizes:
        return Finding("memory", "absent", "the system does not tell")
    free, total = (int(str(size).split()[0]) // 1024 for size in sizes)
    return Finding("memory", "ok", f"{free} MiB free of {total}")


def _disk() -> Finding:
    usage = shutil.disk_usage(Path.cwd())
    free_mib = usage.free // 2**20
    found = f"{free_mib} MiB free of {usage.total // 2**20} here"
    if free_mib < LEAST_DISK_MIB:
        return Finding("disk", "broken", found, f"Free {LEAST_DISK_MIB} MiB, or work on another disk.")
    return Finding("disk", "ok", found)


def _qemu(device: Device) -> Finding:
    """What runs the tests for arm64 on another machine."""
    if device.machine == "aarch64":
        return Finding("arm64", "ok", "this machine")
    path = shutil.which("qemu-aarch64-static")
    fix = "To run the tests for arm64: apt-get install qemu-user-static debootstrap"
    return Finding("arm64", "ok", path) if path else Finding("arm64", "absent", "no qemu-aarch64-static", fix)


def _tried(name: str, code: str, fix: str) -> Finding:
    return _judged(name, [sys.executable, "-c", code], fix)


def _judged(name: str, command: list[str], fix: str) -> Finding:
    """Ok with the first line that a command prints; broken with the last one of its errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, "broken", str(error), fix)
    if done.returncode == 0:
        return Finding(name, "ok", (done.stdout.strip() or "it runs").splitlines()[0])
    last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
    return Finding(name, "broken", last, fix)


def _packages(extra: str, needs: Sequence[str]) -> list[str]:
    """The packages of an extra, from requirements such as ``torch<2.14,>=2.6; extra == "desk"``, and those of
    the extras in it, such as ``edgemtl[ort]; extra == "desk"``.
    """
    found: list[str] = []
    for need in needs:
        if re.search(rf"extra == .{extra}\b", need):
            inner = re.match(r"edgemtl\[(\w+)\]", need)
            found += _packages(inner[1], needs) if inner else [re.split(r"[^\w.-]", need, maxsplit=1)[0]]
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
