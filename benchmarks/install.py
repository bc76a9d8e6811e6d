"""How large is the edge install? What pip puts on a board for `edgemtl[ort]`, for x86-64 and for arm64.

The wheels of the measured set (constraints.txt) for Python 3.11 are unpacked, nothing is run. What importing
them costs is in startup.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import Finding, Outcome, judge, main

ROOT = Path(__file__).parents[1]
SOURCE = ("pyproject.toml", "README.md", "LICENSE", "recipes", "edgemtl")
PYTHON = "3.11"
GLIBC = ("2_28", "2_27", "2_17")  # of the manylinux tags; JetPack 5 has 2.31
HEAVY = ("torch", "nvidia", "triton", "tensorrt", "scipy", "pandas", "cv2")


def measure(quick: bool) -> Outcome:
    """Install for each kind of machine, or in a quick run only for x86-64."""
    machines = ["x86_64"] if quick else ["x86_64", "aarch64"]
    sizes_mib = {machine: installed_mib(machine) for machine in machines}
    findings = [finding for machine in machines for finding in judged(machine, sizes_mib[machine])]
    return Outcome(
        settings={"python": PYTHON, "extra": "ort"}, findings=findings, raw={"size_mib": sizes_mib}
    )


def judged(machine: str, sizes_mib: dict[str, float]) -> list[Finding]:
    """The whole, what of it is neither ONNX Runtime nor numpy, and that nothing of the desk is in it."""
    rest = sum(size for name, size in sizes_mib.items() if not name.startswith(("onnxruntime", "numpy")))
    heavy = sum(size for name, size in sizes_mib.items() if name.startswith(HEAVY))
    return [
        judge(f"{machine}: edge install, MiB", sum(sizes_mib.values())),
        judge(f"{machine}: without onnxruntime and numpy, MiB", rest),
        judge(f"{machine}: edgemtl itself, MiB", sizes_mib["edgemtl"]),
        judge(f"{machine}: packages of the desk, MiB", heavy, at_most=0),
    ]


def installed_mib(machine: str) -> dict[str, float]:
    """MiB of each package that comes with the edge install, its libraries and metadata counted in."""
    with TemporaryDirectory() as source, TemporaryDirectory() as folder:
        # A copy, because building a wheel in the checkout takes in what earlier builds left there.
        for name in SOURCE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(source) / name)
        tags = [f"--platform=manylinux_{version}_{machine}" for version in GLIBC]
        flags = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", "--no-compile"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *flags, *tags]
        subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), f"{source}[ort]"], check=True)
        packages = metadata.distributions(path=[folder])
        return dict(sorted((package.metadata["Name"], recorded_mib(package)) for package in packages))


def recorded_mib(package: metadata.Distribution) -> float:
    """The files that pip recorded for a package, without scripts, which it puts elsewhere."""
    paths = [Path(str(file.locate())) for file in package.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


if __name__ == "__main__":
    main(__doc__, measure)
