"""The tasks that come with Evenly, by the entry-point group `evenly.tasks`."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from evenly.tasks import progress, task

#: Bytes of a file at once.
CHUNK = 1024 * 1024
#: Before the exception of a `call`, on a line of its own in stderr; one that is larger stays words.
RAISED = "evenly.raised: "
RAISED_LIMIT = 64 * 1024


@task
def checksum(path: str, algorithm: str = "sha256") -> str:
    """The digest of a file, in hexadecimal."""
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake_"):
        there = sorted(each for each in hashlib.algorithms_guaranteed if not each.startswith("shake_"))
        raise ValueError(f"there is no algorithm {algorithm!r}: there are {', '.join(there)}")
    digest = hashlib.new(algorithm)
    size, done = Path(path).stat().st_size, 0
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            done += len(data)
            progress(min(1.0, done / size) if size else 0.0)
    return digest.hexdigest()


@task
def compress(
    images: list[str], ratio: float = 0.5, quality: int = 80, directory: str | None = None
) -> list[dict[str, Any]]:
    """Each image with its sides times `ratio`, as JPEG of that quality (PNG where it is transparent).

    The results go into `directory`, else into the job's result directory, else beside the originals, as
    `NAME.small.jpg`; nothing is written over an original. Returns for each: source, path, width, height,
    bytes before and after.
    """
    directory = directory or os.environ.get("EVENLY_RESULT_DIR")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is more than 0 and at most 1: not {ratio}")
    if not 1 <= quality <= 95:
        raise ValueError(f"quality is from 1 to 95: not {quality}")
    folders = [Path(name).parent if directory is None else Path(directory) for name in images]
    stems = [folder / Path(name).stem for folder, name in zip(folders, images, strict=True)]
    if len(set(stems)) < len(stems):
        raise ValueError("two of the images would get the same name in that directory")
    made = []
    for number, (name, folder) in enumerate(zip(images, folders, strict=True)):
        progress(number / len(images), name)
        made.append(_compress(Path(name), folder, ratio, quality))
    return made


@task
def call(module: str, name: str, arguments: str) -> str:
    """Calls a function of a module, for `ClusterExecutor`: it returns the pickled value in base64.

    `arguments`: a pickle of (args, kwargs) in base64. That runs whatever its sender wants, as every command
    does. What the function raises is raised here, and stands pickled in stderr, before its traceback.
    """
    args, kwargs = pickle.loads(base64.b64decode(arguments))
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    try:
        value = function(*args, **kwargs)
    except BaseException as error:
        _tell(error)
        raise
    return base64.b64encode(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)).decode()


def _tell(error: BaseException) -> None:
    """Where it cannot be pickled, or not read again, its words in the traceback have to do."""
    try:
        data = pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)
    except Exception:
        return
    text = base64.b64encode(data).decode()
    if len(text) <= RAISED_LIMIT:
        print(RAISED + text, file=sys.stderr)


def _compress(source: Path, folder: Path, ratio: float, quality: int) -> dict[str, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise RuntimeError("compress needs Pillow on this node: pip install 'evenly[tasks]'") from None
    with Image.open(source) as opened:
        image = ImageOps.exif_transpose(opened)
        size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        is_clear = "A" in image.getbands() or "transparency" in image.info
        small = image.convert("RGBA" if is_clear else "RGB").resize(size, Image.Resampling.LANCZOS)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}.small.{'png' if is_clear else 'jpg'}"
    # Under another name first: who finds it finds it whole.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    if is_clear:
        small.save(unfinished, "PNG", optimize=True)
    else:
        small.save(unfinished, "JPEG", quality=quality, optimize=True)
    unfinished.replace(target)
    return {
        "source": str(source),
        "path": str(target),
        "width": size[0],
        "height": size[1],
        "bytes_before": source.stat().st_size,
        "bytes_after": target.stat().st_size,
    }
