"""The part of a bundle for boards: scripts that build, verify and measure engines where they run.

The scripts in device/ are the same in every bundle. What differs is device.txt, which build.sh reads line by
line without a parser for JSON, and manifest.json, which the Python scripts read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

import onnx

from edgemtl.core.bundle import Manifest, ModelFile
from edgemtl.export.targets import BOARDS, Device
from edgemtl.export.weak import weak_words

SCRIPTS = Path(__file__).parent / "device"
COPIED = ("build.sh", "board.py", "network.py", "verify.py", "bench.py")
DEVICE, README = "device.txt", "README.md"


def write_device_files(folder: Path, manifest: Manifest, devices: Sequence[Device]) -> None:
    """Write the scripts, device.txt and README.md beside the model files of ``manifest``."""
    for name in COPIED:
        shutil.copyfile(SCRIPTS / name, folder / name)
    (folder / "build.sh").chmod(0o755)
    (folder / DEVICE).write_text("".join(f"{line}\n" for line in _settings(folder, manifest, devices)))
    template = Template((SCRIPTS / README).read_text())
    (folder / README).write_text(template.substitute(_words(manifest, devices)))


def _settings(folder: Path, manifest: Manifest, devices: Sequence[Device]) -> Iterator[str]:
    yield f"target {manifest.target}"
    yield f"precision {manifest.precision}"
    yield f"dla {'true' if manifest.dla else 'false'}"
    yield f"batch {manifest.input.batch[0]} {manifest.input.batch[1]}"
    for version in dict.fromkeys(device.platform.tensorrt for device in devices):
        yield f"tensorrt {version}"
    for layout, files in manifest.layouts.items():
        for file in files:
            yield " ".join(["model", layout, file.name, file.path, *_shapes(file, manifest.input.batch)])
            if words := weak_words(onnx.load(folder / file.path)):
                yield " ".join(["weak", file.name, *words])


def _shapes(file: ModelFile, batch: tuple[int, int]) -> list[str]:
    """The smallest and the largest shapes, as trtexec wants them where the batch is free; else none."""
    if batch[0] == batch[1]:
        return []
    return [
        ",".join(f"{tensor.name}:{'x'.join(map(str, (size, *tensor.shape[1:])))}" for tensor in file.inputs)
        for size in batch
    ]


def _words(manifest: Manifest, devices: Sequence[Device]) -> dict[str, object]:
    """What README.md of the bundle says of it."""
    smallest, largest = manifest.input.batch
    metrics = [
        (task, metric, info.accuracy.get(metric.name))
        for task, info in manifest.tasks.items()
        for metric in info.metrics
    ]
    return {
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "platforms": ", ".join(dict.fromkeys(str(device.platform) for device in devices)),
        "tasks": ", ".join(manifest.tasks),
        "batch": smallest if smallest == largest else f"{smallest}..{largest}",
        "height": manifest.input.height,
        "width": manifest.input.width,
        "devices": "\n".join(
            f"| {board}{f', {row}' if row.jetpack else ''} | {', '.join(row.l4t) or 'none'}"
            f" | {row.tensorrt}{'' if row.confirmed else '?'}, {row.typing}ly typed"
            f" | {row.cuda} | {row.python} | {BOARDS[board].capability or 'any'} |"
            for board, row in devices
        ),
        "accuracy": "\n".join(
            f"| {task} | {metric.name} | {'not measured' if value is None else f'{value:.4g}'}"
            f" | {metric.unit} | {'higher' if metric.higher_is_better else 'lower'} |"
            for task, metric, value in metrics
        ),
        "layouts": "\n".join(
            f"`{layout}`: {', '.join(f'`{file.path}`' for file in files)}."
            for layout, files in manifest.layouts.items()
        ),
    }
