"""`edgemtl run`: predictions of a bundle for images, as pictures and raw arrays. Never PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgemtl.core.bundle import Classes
from edgemtl.core.errors import UsageError
from edgemtl.core.files import replacing
from edgemtl.report.pictures import caption, legend, picture, save_grid, value_range
from edgemtl.runtime.images import load_image, pictures_of
from edgemtl.runtime.runner import BundleRunner


def predict(
    bundle: Path,
    images: Sequence[Path],
    out: Path,
    *,
    tasks: Sequence[str] | None = None,
    threads: int | None = None,
) -> Iterator[Path]:
    """Write, for each image, OUT/NAME.png (the image beside a picture of every task) and OUT/NAME.npz (the
    arrays). A folder among ``images`` stands for the pictures in it.

    Raises:
        UsageError: there is no image, two have the same name, ``out`` is the folder of one or leads there,
            or there is no such task.
        DataError: an image cannot be read, or a folder has none.
        BundleError: the bundle is damaged.
        SetupError: ``out`` cannot be written, or the runtime is missing.
    """
    images = [image for path in images for image in (pictures_of(path) if path.is_dir() else [path])]
    _check(images, out)
    runner = BundleRunner(bundle, tasks=tasks, threads=threads)
    infos = {task: runner.manifest.tasks[task].output for task in runner.tasks}
    for path in images:
        image = load_image(path, runner.manifest.input)
        outputs = {task: array[0] for task, array in runner.run_all(image).items()}
        with replacing(out / f"{path.stem}.npz") as draft, draft.open("wb") as file:
            np.savez(file, **outputs)
        pictures = [(image[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)]
        pictures += (picture(array, infos[task]) for task, array in outputs.items())
        titles = [
            "image",
            *(caption(task, infos[task], value_range(array)) for task, array in outputs.items()),
        ]
        legends = {
            task: legend(info, outputs[task].argmax(axis=0))
            for task, info in infos.items()
            if isinstance(info, Classes)
        }
        save_grid(out / f"{path.stem}.png", [pictures], titles, legends)
        yield out / f"{path.stem}.png"


def _check(images: Sequence[Path], out: Path) -> None:
    """Refuse images whose predictions would replace each other, or a file that is not a prediction."""
    if not images:
        raise UsageError("images", expected="a picture or more", found="none", fix="Name one, or a folder.")
    named: dict[str, Path] = {}
    for path in images:
        if (other := named.setdefault(path.stem, path)) is not path:
            raise UsageError(
                "images",
                expected="names that differ in more than their suffix",
                found=f"{other} and {path}",
                fix="Rename one, or run them into folders of their own with --out.",
            )
    # A picture there may be of that name; and what is written goes through links.
    near = {folder for path in images for folder in (path.resolve().parent, path.parent.resolve())}
    written = {(out / f"{name}{suffix}").resolve() for name in named for suffix in (".png", ".npz")}
    if out.resolve() in near or not written.isdisjoint(path.resolve() for path in images):
        raise UsageError(
            "--out", expected="a folder without the images", found=str(out), fix="Name another folder."
        )
