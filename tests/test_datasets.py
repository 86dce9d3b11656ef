"""Named data sets, downloads, and the reader for one's own expression and edges."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regnet import data as registry_module
from regnet.checks import check_gene_names
from regnet.data import PBMC68K_TFS, dataset_names, fetch, list_datasets, load_dataset, make_dataset, match_names

EXPRESSION = pd.DataFrame([[0.0, 1.5], [2.0, 0.5], [3.0, 3.0]], index=["Spi1", "LYZ", "Cd74"], columns=["c1", "c2"])


# make_dataset


def test_a_data_set_joins_names_ignoring_case():
    data = make_dataset(EXPRESSION, [("SPI1", "lyz"), ("spi1", "CD74"), ("LYZ", "Spi1")], ["lyz", "NOT_THERE"], name="mine")
    assert data.edge_index.tolist() == [[0, 0, 1], [1, 2, 0]]
    assert data.edge_index.dtype == torch.int64 and data.edge_index.is_contiguous()
    assert data.gene_names == ["Spi1", "LYZ", "Cd74"] and data.name == "mine"
    assert data.is_tf.tolist() == [False, True, False]
    assert data.x.tolist() == EXPRESSION.to_numpy().tolist() and data.x.dtype == torch.float32


def test_edges_point_from_regulator_to_target():
    assert make_dataset(EXPRESSION, [("LYZ", "Cd74")]).edge_index.tolist() == [[1], [2]]


def test_regulators_are_the_tfs_where_none_are_given_and_none_where_none_match():
    assert make_dataset(EXPRESSION, [("LYZ", "Cd74")]).is_tf.tolist() == [False, True, False]
    assert not make_dataset(EXPRESSION, [("LYZ", "Cd74")], []).is_tf.any()
    assert not make_dataset(EXPRESSION, [("LYZ", "Cd74")], ["OTHER"]).is_tf.any()


def test_repeated_edges_count_once_also_when_spelt_differently():
    data = make_dataset(EXPRESSION, iter([("LYZ", "Cd74"), ("lyz", "CD74"), ("LYZ", "Cd74")]))
    assert data.edge_index.tolist() == [[1], [2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_the_one_asked_for_and_values_are_not_rounded_twice(dtype):
    expression = EXPRESSION + 1 / 3
    data = make_dataset(expression, [("LYZ", "Cd74")], dtype=dtype)
    assert data.x.dtype == dtype
    assert torch.equal(data.x, torch.tensor(expression.to_numpy()).to(dtype))


def test_integer_counts_and_integer_names_are_taken():
    data = make_dataset(pd.DataFrame([[1, 2], [3, 4]], index=[10, 20]), [(10, 20)])
    assert data.gene_names == ["10", "20"] and data.edge_index.tolist() == [[0], [1]]
    assert data.x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_callers_frame_is_left_alone(dtype):
    mine = EXPRESSION.copy()
    make_dataset(mine, [("LYZ", "Cd74")], dtype=dtype).x.add_(1)
    pd.testing.assert_frame_equal(mine, EXPRESSION)


@pytest.mark.parametrize(
    ("change", "edges", "error", "words"),
    [
        (lambda e: e.set_axis(["A", "B", "A"]), [("A", "B")], ValueError, ["unique", "occur more than once: A;"]),
        (
            lambda e: e.set_axis(["Spi1", "SPI1", "B"]),
            [("B", "B"), ("spi1", "B")],
            ValueError,
            ["name spi1, which several genes are called, ignoring case", "as the expression does"],
        ),
        (
            lambda e: e.astype(object).mask(e == 0.5, "high"),
            [("LYZ", "Cd74")],
            TypeError,
            ["numeric", "genes in rows", "high"],
        ),
        (
            lambda e: e.replace(0.5, np.nan),
            [("LYZ", "Cd74")],
            ValueError,
            ["expression must be finite", "nan", "gene 1, cell 1"],
        ),
        (
            lambda e: e.replace(0.5, np.inf),
            [("LYZ", "Cd74")],
            ValueError,
            ["expression must be finite", "inf", "gene 1, cell 1"],
        ),
        (lambda e: e.replace(0.5, 1e300), [("LYZ", "Cd74")], ValueError, ["expression must be finite", "inf"]),
        (lambda e: e, [], ValueError, ["edge list is empty", "regulator, target"]),
        (lambda e: e, [("LYZ", "GATA1"), ("FOXP3", "LYZ")], ValueError, ["lacks", "GATA1, FOXP3", "drop these edges"]),
        (lambda e: e, [("LYZ", f"X{i}") for i in range(9)], ValueError, ["X0, X1, X2, X3, X4 and 4 more"]),
        (lambda e: e, [("LYZ", np.nan)], ValueError, ["lacks: nan"]),
    ],
)
def test_unusable_input_is_refused(change, edges, error, words):
    with pytest.raises(error) as caught:
        make_dataset(change(EXPRESSION), edges)
    for word in words:
        assert word in str(caught.value)


def test_an_integer_dtype_is_refused():
    with pytest.raises(TypeError, match="float32 or float64"):
        make_dataset(EXPRESSION, [("LYZ", "Cd74")], dtype=torch.int64)


@given(
    names=st.lists(st.text("abcXYZ019-", min_size=1, max_size=5), min_size=1, max_size=6, unique_by=str.upper),
    cells=st.integers(1, 3),
    data=st.data(),
)
def test_any_names_round_trip(names, cells, data):
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), min_size=1, max_size=8))
    got = make_dataset(pd.DataFrame(np.ones((len(names), cells)), index=names), [(a.lower(), b.upper()) for a, b in pairs])
    spelled = {(got.gene_names[a], got.gene_names[b]) for a, b in got.edge_index.T.tolist()}
    assert spelled == set(pairs)
    assert got.edge_index.size(1) == len(set(pairs))


# names


def test_the_list_of_names():
    names = dataset_names()
    assert names[0] == "pbmc68k"
    assert {"mesc-lofgof", "mesc-string", "mesc-non-specific", "mesc-specific", "mdc-string"} <= set(names)
    assert len(names) == len(set(names)) == 17
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("name", ["mesc", "MESC-lofgof", "", "published-checkpoint"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="unknown data set") as caught:
        load_dataset(name)
    for known in dataset_names():
        assert known in str(caught.value)


# matching names


def test_names_match_exactly_first_then_ignoring_case():
    genes = ["Spi1", "LYZ", "Cd4", "cd4", "ß"]
    match = match_names(["lyz", "LYZ", "Cd4", "CD4", "SS", "X", "lyz", 7], genes)
    assert match.rows == {"lyz": 1, "LYZ": 1, "Cd4": 2, "SS": 4}
    assert (match.folded, match.unknown, match.ambiguous) == (["lyz", "SS"], ["X", "7"], ["CD4"])


def test_genes_that_differ_in_case_can_be_told_apart_in_the_edges():
    expression = EXPRESSION.set_axis(["Spi1", "SPI1", "Cd74"])
    data = make_dataset(expression, [("SPI1", "cd74"), ("Spi1", "Cd74")], ["spi1", "CD74"])
    assert data.edge_index.tolist() == [[1, 0], [2, 2]]
    assert data.is_tf.tolist() == [False, False, True], "a factor that could be two genes is passed over"


def test_only_exact_duplicates_are_refused():
    check_gene_names(["Spi1", "SPI1"])
    with pytest.raises(ValueError, match="more than once: A, B; merge or drop them"):
        check_gene_names(["A", "B", "A", "B"])


@pytest.mark.parametrize("name", ["A\rB", "A\nB"])
def test_a_name_that_holds_the_end_of_a_line_is_refused(name):
    """Written to a table, its gene would be read back as two, or not at all."""
    with pytest.raises(ValueError, match=re.escape(f"must not hold the end of a line; got {name!r}; rename them")):
        check_gene_names([name])


# what there is


def test_a_data_set_is_listed_with_its_size_once_it_is_there(server):
    pbmc, toy = list_datasets()
    assert pbmc.place == "part of scanpy"
    assert toy == ("toy-near", "", "", "BEELINE/GENELink", "download, 0.0 MB")
    load_dataset("toy-near")
    table = fetch("toy/expression.csv.gz")
    intact = table.read_bytes()
    table.write_bytes(b"x" * len(intact))
    assert list_datasets()[1].place == "damaged"
    table.write_bytes(intact)
    requests = server.requests.total()
    assert list_datasets()[1] == ("toy-near", "2 x 2", "1", "BEELINE/GENELink", "downloaded")
    fetch("toy/near/tfs.csv").write_bytes(b"cut")
    assert list_datasets()[1].place == "download, 0.0 MB", "a file of another size is not counted as there"
    assert server.requests.total() == requests


def test_a_data_folder_is_where_data_sets_are_listed_from(server, monkeypatch, tmp_path):
    monkeypatch.setenv("REGNET_DATA_DIR", str(tmp_path / "data"))
    assert list_datasets()[1].place == "missing, 0.0 MB"
    for name, body in server.files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(body)
    assert list_datasets()[1] == ("toy-near", "2 x 2", "1", "BEELINE/GENELink", "REGNET_DATA_DIR")


# downloads, from a server of our own


CONTENT = {
    "toy/expression.csv.gz": b"gene,c1,c2\nTfa,1.0,2.0\nGeneB,0.0,4.0\n",
    "toy/near/network.csv": b"Gene1,Gene2\nTFA,GENEB\n",
    "toy/near/tfs.csv": b",TF,index\n0,TFA,0\n",
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves CONTENT, counts requests, and stands in for the registry; the cache is an empty folder."""
    files = dict(CONTENT)
    files["toy/expression.csv.gz"] = gzip.compress(files["toy/expression.csv.gz"], mtime=0)
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests[self.path[1:]] += 1
            body = self.server.files.get(self.path[1:])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.files, http.requests, http.cache = dict(files), requests, tmp_path / "cache"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{http.server_address[1]}"
    registry = tmp_path / "registry.txt"
    registry.write_text(
        "# a comment\n"
        + "".join(
            f"{name} sha256:{hashlib.sha256(body).hexdigest()} {address}/{name} {len(body)}\n"
            for name, body in files.items()
        )
    )
    monkeypatch.setattr(registry_module, "_REGISTRY", registry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(http.cache))
    monkeypatch.delenv("REGNET_DATA_DIR", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def cached(server):
    return [file for file in server.cache.rglob("*") if file.is_file()]


def test_a_download_is_checked_cached_and_not_repeated(server):
    assert dataset_names() == ["pbmc68k", "toy-near"]
    first = load_dataset("toy-near", dtype=torch.float64)
    assert first.x.tolist() == [[1, 2], [0, 4]] and first.edge_index.tolist() == [[0], [1]]
    assert first.is_tf.tolist() == [True, False] and first.gene_names == ["Tfa", "GeneB"] and first.name == "toy-near"
    assert len(cached(server)) == 3
    server.files.clear()
    second = load_dataset("toy-near", dtype=torch.float64)
    assert torch.equal(first.x, second.x)
    assert set(server.requests.values()) == {1}


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(server):
    server.files["toy/near/network.csv"] = b"Gene1,Gene2\nGENEB,TFA\n"
    with pytest.raises(ValueError, match=r"(?i)hash") as caught:
        fetch("toy/near/network.csv")
    assert "network.csv" in str(caught.value)
    assert cached(server) == []
    server.files["toy/near/network.csv"] = CONTENT["toy/near/network.csv"]
    assert fetch("toy/near/network.csv").read_bytes() == CONTENT["toy/near/network.csv"]


def test_a_damaged_copy_in_the_cache_is_downloaded_again(server):
    path = fetch("toy/near/network.csv")
    path.write_bytes(b"damaged")
    assert fetch("toy/near/network.csv").read_bytes() == CONTENT["toy/near/network.csv"]
    assert server.requests["toy/near/network.csv"] == 2


def test_a_server_without_the_file_is_an_os_error_and_nothing_is_kept(server):
    del server.files["toy/near/network.csv"]
    with pytest.raises(OSError, match="404"):
        fetch("toy/near/network.csv")
    assert cached(server) == []


def test_a_file_that_is_not_registered_is_refused_without_a_download(server):
    with pytest.raises(ValueError, match=r"'passwords\.csv' is not a registered file"):
        fetch("passwords.csv")
    assert not server.requests


def test_a_data_folder_replaces_every_download(server, monkeypatch, tmp_path):
    folder = tmp_path / "data"
    for name, body in server.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    monkeypatch.setenv("REGNET_DATA_DIR", str(folder))
    assert fetch("toy/near/tfs.csv") == folder / "toy/near/tfs.csv"
    assert load_dataset("toy-near").x.shape == (2, 2)
    assert not server.requests

    (folder / "toy/near/tfs.csv").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged or another version; replace it") as caught:
        load_dataset("toy-near")
    assert str(folder / "toy/near/tfs.csv") in str(caught.value)
    for body in (b"damaged", CONTENT["toy/near/tfs.csv"]):
        assert hashlib.sha256(body).hexdigest() in str(caught.value)
    assert (folder / "toy/near/tfs.csv").read_bytes() == b"damaged", "the user's own file is theirs to mend"

    (folder / "toy/near/tfs.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"REGNET_DATA_DIR is .* has no toy/near/tfs\.csv.*unset the variable"):
        load_dataset("toy-near")
    assert not server.requests


def test_an_empty_variable_is_no_data_folder(server, monkeypatch):
    monkeypatch.setenv("REGNET_DATA_DIR", "")
    assert fetch("toy/near/tfs.csv").read_bytes() == CONTENT["toy/near/tfs.csv"]


# the real benchmark networks


def test_the_registry_is_the_manifest(real_file):
    manifest = pd.read_csv(real_file("MANIFEST.tsv"), sep="\t")
    rows = {
        file: (checksum.removeprefix("sha256:"), address, int(size))
        for file, checksum, address, size in registry_module._rows()
    }
    assert rows == {row.file: (row.sha256, row.url, row.bytes) for row in manifest.itertuples()}


@pytest.mark.parametrize(
    ("cells", "kind", "shape"),
    [("mESC", kind, (1120, 421)) for kind in ("lofgof", "string", "non-specific", "specific")]
    + [("mDC", kind, (821, 383)) for kind in ("string", "non-specific", "specific")],
)
def test_real_networks(cells, kind, shape, real_file):
    network = pd.read_csv(real_file(f"{cells}/{kind}/network.csv"))
    expression = pd.read_csv(real_file(f"{cells}/expression.csv.gz"), index_col=0)
    data = load_dataset(f"{cells}-{kind}".lower(), dtype=torch.float64)
    assert tuple(data.x.shape) == shape and data.name == f"{cells}-{kind}".lower()
    np.testing.assert_array_equal(data.x.numpy(), expression.to_numpy())
    upper = [gene.upper() for gene in data.gene_names]
    listed = next(row for row in list_datasets() if row.name == data.name)
    assert (listed.shape, listed.edges) == (f"{shape[0]} x {shape[1]}", str(data.edge_index.size(1)))
    drawn = {(upper[a], upper[b]) for a, b in data.edge_index.T.tolist()}
    assert drawn == set(zip(network["Gene1"].str.upper(), network["Gene2"].str.upper(), strict=True))
    assert data.edge_index.size(1) == len(drawn)
    tfs = set(pd.read_csv(real_file(f"{cells}/{kind}/tfs.csv"))["TF"].str.upper())
    assert {gene for gene, is_tf in zip(upper, data.is_tf.tolist(), strict=True) if is_tf} == tfs & set(upper)


def test_the_notes_own_network(real_file):
    for file in ("expression.csv.gz", "lofgof/network.csv", "lofgof/tfs.csv"):
        real_file(f"mESC/{file}")
    data = load_dataset("mesc-lofgof")
    assert data.edge_index.size(1) == 4169
    assert len(data.edge_index[0].unique()) == 34
    assert int(data.is_tf.sum()) == 620


# pbmc68k


@pytest.fixture(scope="module")
def pbmc():
    return load_dataset("pbmc68k", dtype=torch.float64)


@pytest.fixture(scope="module")
def whole():
    """All 700 cells, genes x cells."""
    import scanpy

    return scanpy.datasets.pbmc68k_reduced().raw.to_adata().to_df().T.astype(np.float64)


def test_pbmc68k_is_listed_with_its_own_size(pbmc):
    listed = list_datasets()[0]
    assert (listed.shape, listed.edges) == (f"{pbmc.x.size(0)} x {pbmc.x.size(1)}", str(pbmc.edge_index.size(1)))


def test_pbmc68k_has_its_shape_and_its_tfs(pbmc):
    assert tuple(pbmc.x.shape) == (765, 350)
    assert int(pbmc.is_tf.sum()) == 33 == len(set(PBMC68K_TFS))
    assert {gene for gene, is_tf in zip(pbmc.gene_names, pbmc.is_tf.tolist(), strict=True) if is_tf} == set(PBMC68K_TFS)
    assert pbmc.is_tf[pbmc.edge_index[0]].all()
    assert (pbmc.edge_index[0] != pbmc.edge_index[1]).all()


def test_pbmc68k_is_stable_across_calls_and_leaves_the_global_state(pbmc):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = load_dataset("pbmc68k")
    assert torch.equal(again.edge_index, pbmc.edge_index)
    assert torch.equal(again.x, pbmc.x.float())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def columns_of(pbmc, whole):
    """Which of the 700 cells the data set holds, found by their values."""
    place: dict[bytes, list[int]] = {}
    for cell in range(whole.shape[1]):
        place.setdefault(np.ascontiguousarray(whole.iloc[:, cell]).tobytes(), []).append(cell)
    found = [place[np.ascontiguousarray(column).tobytes()] for column in pbmc.x.numpy().T]
    assert all(len(cells) == 1 for cells in found), "every cell is one of the 700, and which one is beyond doubt"
    return [cells[0] for cells in found]


def edges_from(expression, tfs, level=0.05):
    """The documented rule by another route: Pearson's r from numpy, its one-sided t test, Benjamini and Hochberg by hand."""
    values = expression.to_numpy()
    varies = values.std(axis=1) > 0
    genes = expression.index[varies]
    r = np.corrcoef(values[varies])
    pairs, p_values = [], []
    for tf in tfs:
        if tf in genes:
            row = genes.get_loc(tf)
            for column, gene in enumerate(genes):
                if column != row:
                    t = r[row, column] * np.sqrt((values.shape[1] - 2) / (1 - r[row, column] ** 2))
                    pairs.append((tf, gene))
                    p_values.append(stats.t.sf(t, values.shape[1] - 2))
    p_values = np.array(p_values)
    order = p_values.argsort()
    passed = np.flatnonzero(p_values[order] <= level * np.arange(1, len(order) + 1) / len(order))
    return {pairs[i] for i in order[: passed[-1] + 1]}


def test_pbmc68k_edges_come_from_the_other_half_of_the_cells(pbmc, whole):
    mine = columns_of(pbmc, whole)
    assert len(set(mine)) == 350
    others = np.setdiff1d(np.arange(700), mine)
    got = {(pbmc.gene_names[a], pbmc.gene_names[b]) for a, b in pbmc.edge_index.T.tolist()}
    assert got == edges_from(whole.iloc[:, others], PBMC68K_TFS)
    assert got != edges_from(whole.iloc[:, mine], PBMC68K_TFS), "the halves must differ for the comparison to mean anything"
    assert pbmc.edge_index.size(1) == len(got)


def test_pbmc68k_ignores_the_data_folder(monkeypatch, tmp_path, pbmc):
    monkeypatch.setenv("REGNET_DATA_DIR", str(tmp_path))
    assert torch.equal(load_dataset("pbmc68k").edge_index, pbmc.edge_index)
