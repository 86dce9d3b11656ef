"""What every test file shares: one thread, no windows, Hypothesis without chance, and what a machine may lack.

That is the folder with the real data, the built book, and a browser.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor
from torch_geometric.data import Data
from typer.testing import CliRunner, Result

import regnet
from regnet.cli import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

settings.register_profile(
    "regnet", derandomize=True, deadline=None, database=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("mutants", settings.get_profile("regnet"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("regnet")
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start: with more, sums have other last digits


def absent(reason: str, variable: str = "REGNET_REQUIRE_ALL") -> None:
    """Skip with the reason, or fail where the variable says that everything is required."""
    if os.environ.get(variable) == "1":
        pytest.fail(f"{variable}=1, but {reason}")
    pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the built pages are slow: `make pages` runs them."""
    for item in items:
        if "built" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder with the HTML of the sources as they are now."""
    root = Path(__file__).parents[1]
    html = root / "_build/html"
    written = html / "objects.inv"  # by every build
    if not written.is_file():
        absent("the book is not built: run make book", "REGNET_REQUIRE_PAGES")
    patterns = ("_*.yml", "book/*.*", "_ext/*.py", "_static/*", "regnet/*.py", "CITATION.cff", "CHANGELOG.md")
    sources = [source for pattern in patterns for source in root.glob(pattern)]
    newer = [source.name for source in sources if source.stat().st_mtime > written.stat().st_mtime]
    if newer:
        absent(f"{newer[0]} is newer than the built HTML: run make book", "REGNET_REQUIRE_PAGES")
    return html


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a browser that Playwright can drive."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        absent(f"none of {', '.join(names)} is installed", "REGNET_REQUIRE_PAGES")
    return str(program)


@pytest.fixture(scope="session")
def address(built: Path) -> Iterator[str]:
    """The book on a port of this machine."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(built: Path, chromium: str) -> Iterator[Browser]:
    """Without network."""
    from playwright.sync_api import sync_playwright

    quiet = [f"--disable-{what}" for what in ("background-networking", "component-update", "sync", "quic")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *quiet])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light") as context:
        yield context.new_page()


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
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes text or bytes under a name and returns the path."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20240607)


@pytest.fixture
def normal(rng: torch.Generator) -> Callable[..., Tensor]:
    """Standard normal float64 tensors from a fixed seed."""
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=rng)


@pytest.fixture
def pair(normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Expression and regulators' mean of eleven genes in four cells."""
    return normal(11, 4), normal(11, 4)


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
def run(monkeypatch: pytest.MonkeyPatch, tiny_data: Data, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command line in an empty folder, where `tiny` is a data set, too."""
    real = regnet.load_dataset

    def load(name: str, dtype: torch.dtype = torch.float32) -> Data:
        return tiny_data.clone().apply(lambda x: x.to(dtype), "x") if name == "tiny" else real(name, dtype=dtype)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("regnet.data.load_dataset", load)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


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
