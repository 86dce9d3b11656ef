"""Output folders: one lock, and one way to write files whole."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

_UNFINISHED = ".unfinished"


@contextmanager
def output_lock(folder: str | Path) -> Iterator[Path]:
    """An output folder that no other run writes to meanwhile; where it was made for nothing, it is removed again."""
    folder = Path(folder)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise BlockingIOError(
                f"another run is writing to {folder}; wait until it has ended, or give another folder (--out)"
            ) from None
    try:
        for pattern in ("", "*/"):
            for left in folder.glob(f"{pattern}.*{_UNFINISHED}"):  # by a run that was killed
                left.unlink()
        yield folder
    finally:
        (folder / ".lock").unlink(missing_ok=True)  # while it is held: filelock does not take one that is gone
        lock.release()
        with suppress(OSError):  # there is something in it now
            for parent in made:
                parent.rmdir()


def write_files(folder: Path, files: Mapping[str, bytes | Callable[[BinaryIO], object]]) -> None:
    """Write all files beside their places, then move them there: none is ever half written, and none lost."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = {folder / f".{name}{_UNFINISHED}": folder / name for name in files}
        try:
            for path, content in zip(unfinished, files.values(), strict=True):
                _write(path, content)
            for place in unfinished.values():  # before the first is moved
                if place.is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{place.name} is a folder")
            for path, place in unfinished.items():
                path.replace(place)
        finally:
            for path in unfinished:
                path.unlink(missing_ok=True)


def _write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        try:
            content(file) if callable(content) else file.write(content)
        except RuntimeError as error:  # of PyTorch, behind which it hides why the file could not be written
            raise error.__context__ or error from None


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn the failure of a write into a message that names the folder and says what can be done."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        failure = type(error)(
            f"cannot write to {folder} ({error.strerror or error}); make room there or make it writable, or give another "
            "folder (--out); earlier outputs are as they were"
        )
        failure.errno = error.errno
        raise failure from error
