"""Which data sets there are, and the registered files they are made of: where each lies, or is downloaded from."""

from __future__ import annotations

import gzip
import os
import zlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pooch

_REGISTRY = files("regnet") / "registry.txt"
_TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""


class DatasetInfo(NamedTuple):
    """One line of ``regnet datasets``."""

    name: str
    """What :func:`regnet.load_dataset` takes."""
    shape: str
    """Genes x cells, where the files are at hand."""
    edges: str
    """How many, where the files are at hand."""
    origin: str
    """Where it comes from."""
    place: str
    """Where it is, or how much is to be downloaded."""


def dataset_names() -> list[str]:
    """Names that :func:`regnet.load_dataset` takes.

    Returns:
        ``pbmc68k``, then the benchmark networks, cells and kind of network joined by a hyphen.

    References:
        The reproducibility page of the book.

    >>> dataset_names()[:3]
    ['pbmc68k', 'mesc-lofgof', 'mesc-non-specific']
    """
    return ["pbmc68k", *networks()]


def list_datasets() -> list[DatasetInfo]:
    """What is known of every data set without loading or downloading it.

    Returns:
        One :class:`regnet.registry.DatasetInfo` for each of :func:`regnet.dataset_names`, in their order. A file counts as
        present where it has the registered size; its checksum is for :func:`regnet.registry.fetch` to compare.

    References:
        The reproducibility page of the book.

    >>> list_datasets()[0]
    DatasetInfo(name='pbmc68k', shape='765 x 350', edges='1025', origin='10x Genomics', place='part of scanpy')
    """
    # Its graph takes seconds to estimate; a test compares these three numbers with the data set.
    listed = [DatasetInfo("pbmc68k", "765 x 350", "1025", "10x Genomics", "part of scanpy")]
    for name, members in networks().items():
        absent = [file for file in members if not _is_present(file)]
        shape = edges = ""
        folder = os.environ.get("REGNET_DATA_DIR")
        if absent:
            megabytes = f"{sum(_sizes()[file] for file in absent) / 1e6:.1f} MB"
            place = f"missing, {megabytes}" if folder else f"download, {megabytes}"
        else:
            try:
                genes, cells = _count_expression(_local(members[0]))
                shape, edges = f"{genes} x {cells}", str(_count_edges(_local(members[1])))
                place = "REGNET_DATA_DIR" if folder else "downloaded"
            except (OSError, EOFError, ValueError, zlib.error):  # the others are still listed; `fetch` says more
                place = "damaged"
        listed.append(DatasetInfo(name, shape, edges, "BEELINE/GENELink", place))
    return listed


def networks() -> dict[str, tuple[str, str, str]]:
    """Name of a benchmark data set -> its files: expression, network and transcription factors.

    Returns:
        Names in the registry of the three files of every data set, whether they are there or not.

    References:
        Pratapa et al. (2020) and Chen and Liu (2022); chapter 12 of the book.

    >>> networks()["mesc-lofgof"]
    ('mESC/expression.csv.gz', 'mESC/lofgof/network.csv', 'mESC/lofgof/tfs.csv')
    """
    folders = [file.rsplit("/", 1)[0] for file in _sizes() if file.endswith("/network.csv")]
    return {
        folder.replace("/", "-").lower(): (
            f"{folder.split('/')[0]}/expression.csv.gz",
            f"{folder}/network.csv",
            f"{folder}/tfs.csv",
        )
        for folder in folders
    }


def fetch(file: str) -> Path:
    """Local path of a registered file: from ``REGNET_DATA_DIR`` where that is set, else downloaded once by pooch.

    Args:
        file: its name in the registry, e.g. ``"published-checkpoint/regnet_pretrained.pth"``.

    Returns:
        Path of a file whose SHA-256 is the registered one. Several processes may ask for it at once.

    Raises:
        ValueError: the file is not registered or its checksum is wrong.
        FileNotFoundError: ``REGNET_DATA_DIR`` is set and lacks the file.
        OSError: the download failed twice: the server cannot be reached, lacks the file, breaks off or is silent for 30
            seconds; or the cache cannot be written to. Nothing of the file is kept.

    References:
        The reproducibility page of the book.

    >>> fetch("mESC/nothing.csv")
    Traceback (most recent call last):
        ...
    ValueError: 'mESC/nothing.csv' is not a registered file; see regnet/registry.txt
    """
    source = _pooch()
    if file not in source.registry:
        raise ValueError(f"{file!r} is not a registered file; see regnet/registry.txt")
    folder = os.environ.get("REGNET_DATA_DIR")
    if not folder:
        return _download(source, file)
    path = Path(folder) / file
    if not path.is_file():
        raise FileNotFoundError(
            f"REGNET_DATA_DIR is {folder}, which has no {file}; put it there, or unset the variable to download it"
        )
    expected = source.registry[file].removeprefix("sha256:")
    got = pooch.file_hash(str(path), alg="sha256")
    if got != expected:
        raise ValueError(f"{path} has the SHA-256 {got}, expected {expected}: it is damaged or another version; replace it")
    return path


def _download(source: pooch.Pooch, file: str) -> Path:
    mend = "nothing of it was kept; try again later, or put it into a folder that REGNET_DATA_DIR names"
    try:
        # Made here, because pooch fails where two processes make it at once.
        (source.abspath / file).parent.mkdir(parents=True, exist_ok=True)
        return Path(source.fetch(file, downloader=pooch.HTTPDownloader(timeout=_TIMEOUT)))
    except OSError as error:
        address = source.get_url(file)
        raise OSError(f"{file} could not be downloaded from {address} to {source.abspath} ({error}); {mend}") from error
    except ValueError as error:
        raise ValueError(f"{file} is not what was registered ({error}); {mend}") from error


def _rows() -> list[list[str]]:
    """Name, SHA-256, address and bytes of every file."""
    lines = _REGISTRY.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def _sizes() -> dict[str, int]:
    return {file: int(size) for file, _, _, size in _rows()}


def _pooch() -> pooch.Pooch:
    rows = _rows()
    return pooch.create(
        path=pooch.os_cache("regnet"),
        base_url="",
        registry={file: digest for file, digest, _, _ in rows},
        urls={file: address for file, _, address, _ in rows},
        retry_if_failed=1,
    )


def _local(file: str) -> Path:
    """Where a file is, or would be once downloaded."""
    return Path(os.environ.get("REGNET_DATA_DIR") or pooch.os_cache("regnet")) / file


def _is_present(file: str) -> bool:
    path = _local(file)
    return path.is_file() and path.stat().st_size == _sizes()[file]


@cache
def _count_expression(path: Path) -> tuple[int, int]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        cells = next(lines, "").count(",")
        return sum(1 for line in lines if line.strip()), cells


def _count_edges(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return len({line.strip().upper() for line in lines} - {""}) - 1
