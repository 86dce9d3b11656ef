"""What every test file shares: one thread, no windows, Hypothesis without chance, and the folder with the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from torch_geometric.data import Data

settings.register_profile(
    "regnet", derandomize=True, deadline=None, database=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("regnet")
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start: with more, sums have other last digits


def absent(reason: str) -> None:
    """Skip with the reason, or fail where everything is required."""
    if os.environ.get("REGNET_REQUIRE_ALL") == "1":
        pytest.fail(f"REGNET_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture
def real_file() -> Callable[[str], Path]:
    """The path of a file below REGNET_DATA_DIR; skips (or fails, with REGNET_REQUIRE_ALL=1) where it is not there."""

    def find(name: str) -> Path:
        folder = os.environ.get("REGNET_DATA_DIR")
        if not folder:
            absent("REGNET_DATA_DIR is not set")
        path = Path(str(folder)) / name
        if not path.is_file():
            absent(f"REGNET_DATA_DIR has no {name}")
        return path

    return find


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20240607)


@pytest.fixture
def normal(rng: torch.Generator) -> Callable[..., Tensor]:
    """Standard normal float64 tensors from a fixed seed."""
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=rng)


@pytest.fixture
def random_graph(rng: torch.Generator) -> Callable[[int, int], Tensor]:
    """Distinct edges of a random graph without self loops whose last gene has no regulator."""

    def draw(num_genes: int, num_edges: int) -> Tensor:
        allowed = 1 - torch.eye(num_genes)
        allowed[:, -1] = 0
        pairs = allowed.nonzero()
        return pairs[torch.randperm(len(pairs), generator=rng)[:num_edges]].T.contiguous()

    return draw


@pytest.fixture
def tiny_data() -> Data:
    """40 genes, 12 cells; regulators 0 to 3 with 10 to 19 targets each, which follow them."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(40, 12, dtype=torch.float64, generator=generator)
    edges = []
    for regulator in range(4):
        for target in (4 + torch.randperm(36, generator=generator)[: 10 + 3 * regulator]).tolist():
            edges.append((regulator, target))
            x[target] += 0.5 * x[regulator]
    return Data(
        x=x,
        edge_index=torch.tensor(edges).T.contiguous(),
        gene_names=[f"G{gene}" for gene in range(40)],
        is_tf=torch.arange(40) < 6,
        name="tiny",
    )
