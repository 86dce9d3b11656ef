"""Named data sets, downloads, and data sets from one's own expression and edges."""

from __future__ import annotations

import gc
import gzip
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import anndata
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from examples import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from torch_geometric.data import Data

import regnet.data
from regnet import recover_counts
from regnet.checks import check_gene_names
from regnet.data import PBMC68K_TFS, dataset_names, fetch, join, list_datasets, load_dataset, make_dataset

EXPRESSION = pd.DataFrame([[0.0, 1.5], [2.0, 0.5], [3.0, 3.0]], index=["Spi1", "LYZ", "Cd74"], columns=["c1", "c2"])
EDGE = [("LYZ", "Cd74")]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


# make_dataset


def test_a_data_set_points_from_regulator_to_target():
    data = make_dataset(EXPRESSION, [("Spi1", "LYZ"), ("LYZ", "Spi1"), ("Spi1", "Cd74")], ["LYZ"], name="mine", strict=True)
    assert data.edge_index.tolist() == [[0, 1, 0], [1, 0, 2]]
    assert data.edge_index.dtype == torch.int64 and data.edge_index.is_contiguous()
    assert data.gene_names == ["Spi1", "LYZ", "Cd74"] and data.name == "mine" and data.is_tf.tolist() == [False, True, False]
    assert data.x.tolist() == EXPRESSION.to_numpy().tolist() and data.x.dtype == torch.float32


@pytest.mark.parametrize(
    "kind",
    [
        iter,
        np.array,
        lambda edges: pd.DataFrame(edges, columns=["source", "target"], index=list("abc")).assign(weight=1),
        lambda edges: pd.DataFrame(edges, columns=["TF", "Gene"], dtype="category")[["Gene", "TF"]],
    ],
)
def test_edges_are_pairs_or_a_table_and_repeated_ones_count_once(kind):
    with pytest.warns(UserWarning, match="ignoring case"):
        data = make_dataset(EXPRESSION, kind([("LYZ", "Cd74"), ("lyz", "CD74"), ("LYZ", "Cd74")]))
    assert data.edge_index.tolist() == [[1], [2]]


def test_a_guess_about_the_columns_is_a_warning_also_where_strict():
    with pytest.warns(
        UserWarning, match="the regulator is read from column 'x', the target is read from column 'y'"
    ) as caught:
        data = make_dataset(EXPRESSION, pd.DataFrame(EDGE, columns=["x", "y"]), strict=True)
    assert data.edge_index.tolist() == [[1], [2]] and caught[0].filename == __file__


def test_columns_that_describe_genes_are_announced_and_the_edges_are_between_genes():
    with pytest.warns(UserWarning) as caught:
        data = make_dataset(EXPRESSION.assign(Length=9), pd.DataFrame([["LYZ", "activates", "Cd74"]]))
    messages = [str(warning.message) for warning in caught]
    assert data.edge_index.tolist() == [[1], [2]] and all(warning.filename == __file__ for warning in caught)
    assert "the regulator is read from column '0', the target is read from column '2'" in messages[1]
    assert messages[0] == "taken as cells, although they seem to describe genes: Length; drop them"


def test_regulators_are_the_tfs_where_none_are_given():
    assert make_dataset(EXPRESSION, EDGE).is_tf.tolist() == [False, True, False]
    assert not make_dataset(EXPRESSION, EDGE, []).is_tf.any()


@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_anndata_gives_what_the_data_frame_gives(stored, dtype):
    table = anndata.AnnData(stored(EXPRESSION.to_numpy().T), obs=EXPRESSION.T[[]], var=EXPRESSION[[]])
    expected = make_dataset(EXPRESSION, EDGE, dtype=dtype)
    assert make_dataset(table, EDGE, dtype=dtype).to_dict().keys() == expected.to_dict().keys()
    assert torch.equal(make_dataset(table, EDGE, dtype=dtype).x, expected.x)
    table.X = da.from_array(EXPRESSION.to_numpy().T)
    lazy = make_dataset(table, EDGE, dtype=dtype)
    assert (
        lazy.x.shape == (3, 2) and f"torch.{lazy.x.dtype}" == str(dtype) and lazy.x.compute().tolist() == expected.x.tolist()
    )
    with pytest.raises(ValueError, match="the edges name the cells"):
        make_dataset(table.T, EDGE)


@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, da.from_array])
def test_a_scaled_matrix_is_announced_where_there_are_others(stored, tmp_path):
    counts = EXPRESSION.to_numpy().T
    table = anndata.AnnData(stored(counts - 1), var=EXPRESSION[[]], layers={"counts": counts})
    with pytest.warns(UserWarning, match=r"^X has .*counts; raw: no; choose with adata.X = ") as caught:
        assert np.asarray(make_dataset(table, EDGE).x).tolist() == (counts.T - 1).tolist()
    assert [warning.filename for warning in caught] == [__file__]
    table.write_h5ad(tmp_path / "x.h5ad")
    with pytest.warns(UserWarning, match="X has negative values"):
        backed = make_dataset(anndata.read_h5ad(tmp_path / "x.h5ad", backed="r"), EDGE)
    assert backed.x.tolist() == (counts.T - 1).tolist()
    table.raw, table.X = table.copy(), None
    with pytest.raises(ValueError, match=r"X is empty; layers: counts; raw: yes; choose with .* or adata.raw.to_adata"):
        make_dataset(table, EDGE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_rounded_once_and_the_callers_frame_is_left_alone(dtype):
    mine = EXPRESSION + 1 / 3
    data = make_dataset(mine, EDGE, dtype=dtype)
    assert data.x.dtype == dtype and torch.equal(data.x, torch.tensor(mine.to_numpy()).to(dtype))
    data.x.add_(1)
    pd.testing.assert_frame_equal(mine, EXPRESSION + 1 / 3)


@pytest.mark.parametrize("kind", [bool, int, np.float16, "Int64", object])
def test_other_numbers_and_names_that_are_numbers_are_taken(kind):
    frame = pd.DataFrame([[0, 1], [1, 1]], index=[10, 20]).astype(kind)
    data = make_dataset(frame, [(10, 20)])
    assert data.x.tolist() == [[0, 1], [1, 1]] and data.gene_names == ["10", "20"]


@pytest.mark.parametrize(
    ("change", "edges", "error", "words"),
    [
        (lambda e: e.set_axis(["A", "B", "A"]), [("A", "B")], ValueError, "occur more than once: A;"),
        (lambda e: e.astype(object).mask(e == 0.5, "high"), EDGE, TypeError, "numeric, genes in rows .*high"),
        (lambda e: e.astype(complex), EDGE, TypeError, "must be numeric.*complex128"),
        (lambda e: e.astype("datetime64[ns]"), EDGE, TypeError, "must be numeric.*datetime64"),
        (lambda e: e.astype("timedelta64[ns]"), EDGE, TypeError, "must be numeric.*timedelta64"),
        (
            lambda e: e.to_numpy(),
            EDGE,
            TypeError,
            r"data frame \(genes x cells\) or an AnnData .*got ndarray.*DataFrame\(matrix",
        ),
        (
            lambda e: sparse.csr_matrix(e),
            EDGE,
            TypeError,
            "got csr_matrix, which has no names of genes; give pandas.DataFrame",
        ),
        (lambda e: e.replace(0.5, np.nan), EDGE, ValueError, "expression must be finite; got nan at gene 1, cell 1"),
        (lambda e: e.replace(0.5, np.inf), EDGE, ValueError, "expression must be finite; got inf at gene 1, cell 1"),
        (lambda e: e.replace(0.5, 1e300), EDGE, ValueError, "expression must be finite; got inf"),
        (lambda e: e.T, [("LYZ", "cd74")], ValueError, "the edges name the cells.*transpose it"),
        (lambda e: e, [("X", "Y")], ValueError, "the edges name X, Y, the genes are Spi1, LYZ, Cd74; use the same kind of"),
        (lambda e: e, [], ValueError, "edges: expected at least one edge; got 0 pairs"),
        (lambda e: e, pd.DataFrame({"tf": ["A"]}), ValueError, "edges: expected two columns"),
        (
            lambda e: e,
            pd.DataFrame({"tf": ["A"], "target": [None]}),
            ValueError,
            "names of a regulator and a target .*'0 A None'",
        ),
        (lambda e: e, [("A", "B", 1)], TypeError, r"must be pairs \(regulator, target\)"),
        (lambda e: e, None, TypeError, "got NoneType"),
        (lambda e: e, torch.tensor([[0], [1]]), TypeError, "got Tensor"),
    ],
)
def test_unusable_input_is_refused(change, edges, error, words):
    with pytest.raises(error, match=words):
        make_dataset(change(EXPRESSION), edges)


def test_raw_counts_are_announced_in_memory_and_on_disk():
    counts = pd.DataFrame([[0, 1, 30], [2, 5, 0]], index=["SPI1", "LYZ"], columns=list("abc"))
    on_disk, var = da.from_array(counts.to_numpy().T), pd.DataFrame(index=counts.index)
    in_blocks = (anndata.AnnData(x, var=var) for x in (on_disk, on_disk.map_blocks(sparse.csr_matrix)))
    for expression in (counts, *in_blocks):
        with pytest.warns(UserWarning, match="seems to be raw counts"):
            make_dataset(expression, [("SPI1", "LYZ")])


def test_an_integer_dtype_is_refused_and_what_float32_cannot_hold_is_zero():
    with pytest.raises(TypeError, match="float32 or float64"):
        make_dataset(EXPRESSION, EDGE, dtype=torch.int64)
    assert (make_dataset(1e-300 * EXPRESSION, EDGE).x == 0).all()
    assert make_dataset(1e300 * EXPRESSION, EDGE, dtype=torch.float64).x.max() == 3e300


@given(
    names=st.lists(st.text("abcXYZ019-", min_size=1, max_size=5), min_size=1, max_size=6, unique_by=str.upper),
    cells=st.integers(1, 3),
    data=st.data(),
)
def test_any_names_round_trip(names, cells, data):
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), min_size=1, max_size=8))
    frame = pd.DataFrame(np.ones((len(names), cells)), index=names)
    got, _ = join(frame, [(source.lower(), target.upper()) for source, target in pairs])
    spelled = {(got.gene_names[a], got.gene_names[b]) for a, b in got.edge_index.T.tolist()}
    assert spelled == set(pairs) and got.edge_index.size(1) == len(set(pairs))


# Matching names


def test_what_was_matched_and_what_was_dropped_is_counted_and_shown():
    edges = [("spi1", "LYZ"), ("Spi1", "lyz"), ("Spi1", "X1"), ("X2", "X3"), ("cd4", "LYZ"), ("LYZ", "Cd4")]
    frame = pd.DataFrame(np.eye(4), index=["Spi1", "LYZ", "CD4", "Cd4"])
    expected = [
        "names of the edges that match a gene only ignoring case (2): spi1, lyz",
        "names of the edges that are no genes (3): X1, X2, X3",
        "names of the edges that could be several genes (1): cd4",
        "edges dropped with these names: 3 of 6",
        "names of the transcription factors that match a gene only ignoring case (1): lyz",
        "names of the transcription factors that are no genes (7): X0, X1, X2, X3, X4 and 2 more",
    ]
    with pytest.warns(UserWarning) as caught:
        data = make_dataset(frame, edges, ["lyz", *(f"X{number}" for number in range(7))])
    assert [str(warning.message) for warning in caught] == expected
    assert all(warning.filename == __file__ for warning in caught), "they point to the caller"
    assert data.edge_index.tolist() == [[0, 1], [1, 3]] and data.is_tf.tolist() == [False, True, False, False]
    assert data.gene_names[3] == "Cd4", "an exact match goes first"
    for wrong in edges[:3]:
        with pytest.raises(ValueError, match=r"names of the edges that .*strict=True"):
            make_dataset(frame, [("LYZ", "Cd4"), wrong], strict=True)


@pytest.mark.parametrize(
    ("genes", "names", "rows", "notice"),
    [
        (["ENSG00000066336", "B"], ["ENSG00000066336.12", "B"], [0, 1], "match a gene only without the version"),
        (["ENSMUSG00000002111.8", "B"], ["ensmusg00000002111", "B"], [0, 1], "match a gene only without the version"),
        (["ENSG00000066336.11", "B"], ["ENSG00000066336.12", "B"], [0, 1], "match a gene only without the version"),
        (["ENSG00000066336.11", "ENSG00000066336.12", "B"], ["ENSG00000066336.12", "B"], [1, 2], ""),
        (["ENSG00000066336.11", "ENSG00000066336.12", "B"], ["ENSG00000066336", "B"], [2, 2], "could be several genes"),
        (["AC1.1", "B"], ["AC1.2", "B"], [1, 1], "are no genes"),
        (["Dl", "sna"], ["dl", "sna"], [0, 1], "match a gene only ignoring case"),
        (["Dl", "dl", "sna"], ["dl", "sna"], [1, 2], ""),
    ],
)
def test_a_version_is_ignored_where_nothing_else_matches_and_never_in_silence(genes, names, rows, notice):
    frame, edges = pd.DataFrame(np.eye(len(genes)), index=genes), [tuple(names), (genes[-1], genes[-1])]
    data, notices = join(frame, edges)
    assert data.edge_index.T.tolist()[0] == rows and notice in "".join(notices) and bool(notices) == bool(notice)
    if notice:
        with pytest.raises(ValueError, match=r"strict=True"):
            make_dataset(frame, edges, strict=True)


def test_swapped_columns_are_told_from_the_transcription_factors():
    genes, pairs = ["SPI1", "LYZ", "CD74", "IRF8"], [("SPI1", "LYZ"), ("SPI1", "CD74")]
    frame, swapped = pd.DataFrame(np.eye(4), index=genes), [pair[::-1] for pair in pairs]
    with pytest.raises(ValueError, match=r"no regulator of the edges .* columns seem to be swapped"):
        make_dataset(frame, swapped, ["SPI1"])
    assert make_dataset(frame, swapped).edge_index.tolist() == [[1, 2], [0, 0]], "without the list it cannot be seen"
    for taken in (pairs, [*swapped, ("IRF8", "LYZ")], [("LYZ", "CD74")]):
        assert make_dataset(frame, taken, ["SPI1", "IRF8"]).edge_index.shape == (2, len(taken))
    with pytest.raises(ValueError, match="none of the transcription factors, X, is a gene"):
        make_dataset(frame, pairs, ["X"])


def test_another_network_keeps_what_the_data_set_says_of_its_tfs_unless_told(tiny_data):
    edges, before = [("G3", "G9"), ("G3", "G8"), ("G3", "X")], tiny_data.edge_index
    replaced, notices = join(tiny_data, edges)
    assert replaced.edge_index.tolist() == [[3, 3], [9, 8]] and replaced.is_tf.tolist() == tiny_data.is_tf.tolist()
    assert tiny_data.edge_index is before and replaced.x is tiny_data.x and len(notices) == 2
    assert join(tiny_data, edges, ["G5"])[0].is_tf.nonzero().tolist() == [[5]]
    assert join(Data(x=tiny_data.x, gene_names=tiny_data.gene_names), edges)[0].is_tf.nonzero().tolist() == [[3]]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["A", "B", "A", "B"], "more than once: A, B; merge or drop them"),
        (["A", ""], "gene 2 has none"),
        (["A\rB"], r"must not contain a line break; got 'A\\rB'"),
        (["A\nB"], r"must not contain a line break; got 'A\\nB'"),
    ],
)
def test_every_gene_needs_a_name_of_its_own_on_one_line(names, words):
    """Written to a table, a gene with a line break would be read back as two, or not at all."""
    check_gene_names(["Spi1", "SPI1"])
    with pytest.raises(ValueError, match=words):
        check_gene_names(names)


# What there is


def test_the_list_of_names():
    names = dataset_names()
    assert names[:2] == ["pbmc68k", "celltypist-trrust"] and {
        "mesc-lofgof",
        "mesc-non-specific",
        "mdc-string",
        "mhsc-gm-specific",
    } <= set(names)
    assert len(names) == len(set(names)) == 18 and all(name == name.lower() for name in names)
    assert all(row.shape and row.edges for row in list_datasets())


@pytest.mark.parametrize("name", ["mesc", "MESC-lofgof", "", "published-checkpoint"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'; known are {', '.join(dataset_names())}"):
        load_dataset(name)


# Downloads

CONTENT = {
    "toy/expression.csv.gz": gzip.compress(b"gene,c1,c2\nTfa,1.0,2.0\nGeneB,0.0,4.0\n", mtime=0),
    "toy/near/network.csv": b"Gene1,Gene2\nTFA,GENEB\n",
    "toy/near/tfs.csv": b",TF,index\n0,TFA,0\n",
}
TOY = ("toy-near", "", "", "BEELINE/GENELink")


def respond(request, body, status=200, length=None):
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)
    request.wfile.flush()


def stall(request, body):
    respond(request, body[:9], length=len(body))
    request.server.over.wait(10)


FAILURES = {
    "IncompleteRead": lambda request, body: respond(request, body[:9], length=len(body)),
    "Read timed out": stall,
    "hash of downloaded file (tfs.csv) does not match the known hash": lambda request, body: respond(request, body[::-1]),
    "does not match the known hash": lambda request, body: respond(request, b""),
    "404": lambda request, body: respond(request, b"no such page", 404),
    "500": lambda request, body: respond(request, b"try later", 500),
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Responds as `responses` say, one a request and the last for ever; the cache is empty."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            http.requests.append(self.path[1:])
            respond = http.responses.pop(0) if len(http.responses) > 1 else http.responses[0]
            respond(self, CONTENT[self.path[1:]])

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.responses, http.requests, http.over, http.cache = [respond], [], threading.Event(), tmp_path / "cache"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{http.server_address[1]}"
    lines = [
        f"{name} sha256:{hashlib.sha256(body).hexdigest()} {address}/{name} {len(body)}" for name, body in CONTENT.items()
    ]
    (tmp_path / "registry.txt").write_text("\n".join(["# a comment", *lines, ""]))
    monkeypatch.setattr(regnet.data, "_REGISTRY", tmp_path / "registry.txt")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(http.cache))
    for variable in ("REGNET_DATA_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield http
    http.over.set()
    http.shutdown()
    thread.join()
    http.server_close()
    gc.collect()  # here, where pooch may leave the connection to a server that refuses open


def cached(server):
    return {path.name: path.read_bytes() for path in server.cache.rglob("*") if path.is_file()}


def test_a_download_is_cached_and_a_damaged_copy_downloaded_again(server):
    assert dataset_names() == ["pbmc68k", "celltypist-trrust", "toy-near"]
    assert list_datasets()[2] == (*TOY, "download, 0.0 MB")
    data = load_dataset("toy-near", dtype=torch.float64)
    assert data.x.tolist() == [[1, 2], [0, 4]] and data.edge_index.tolist() == [[0], [1]]
    assert data.is_tf.tolist() == [True, False] and data.gene_names == ["Tfa", "GeneB"] and data.name == "toy-near"
    assert list_datasets()[2] == (*TOY, "downloaded")
    assert torch.equal(load_dataset("toy-near", dtype=torch.float64).x, data.x) and server.requests == list(CONTENT)
    fetch("toy/near/tfs.csv").write_bytes(b"damaged")
    assert list_datasets()[2] == (*TOY, "download, 0.0 MB")
    assert fetch("toy/near/tfs.csv").read_bytes() == CONTENT["toy/near/tfs.csv"] and len(server.requests) == 4


@pytest.mark.parametrize("reason", FAILURES)
def test_a_download_that_fails_twice_leaves_no_file_and_one_that_fails_once_is_repeated(reason, server, monkeypatch):
    if FAILURES[reason] is stall:
        monkeypatch.setattr(regnet.data, "_TIMEOUT", 0.5)
    name = "toy/near/tfs.csv"
    others = {"network.csv": fetch("toy/near/network.csv").read_bytes()}
    server.responses = [FAILURES[reason]]
    words = (
        f"{name} could not be downloaded from http",
        reason,
        "nothing of it was kept; try again later, or put it into a fol",
    )
    refused(lambda: fetch(name), *words, error=(OSError, ValueError))
    assert server.requests[1:] == [name] * 2 and cached(server) == others
    server.responses = [FAILURES[reason], respond]
    assert fetch(name).read_bytes() == CONTENT[name]
    assert server.requests[3:] == [name] * 2 and cached(server) == others | {"tfs.csv": CONTENT[name]}


def test_a_cache_that_cannot_be_written_to_is_named(server):
    server.cache.write_text("in the way")
    words = "tfs.csv could not be downloaded", f"to {server.cache}", "put it into a folder"
    refused(lambda: fetch("toy/near/tfs.csv"), *words, error=OSError)


TWO_AT_ONCE = """
import os, sys, time
from pathlib import Path
import regnet.data
regnet.data._REGISTRY = Path(sys.argv[1])
make = os.makedirs
os.makedirs = lambda *args, **kwargs: time.sleep(0.3) or make(*args, **kwargs)  # the same folders at the same moment
child = os.fork()
assert regnet.data.load_dataset("toy-near").x.tolist() == [[1, 2], [0, 4]]
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_two_processes_fill_one_empty_cache_at_once(server, tmp_path):
    both = threading.Barrier(2, timeout=60)
    server.responses = [lambda *request: both.wait() is not None and respond(*request)]
    result = subprocess.run([sys.executable, "-c", TWO_AT_ONCE, tmp_path / "registry.txt"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert cached(server) == {Path(name).name: body for name, body in CONTENT.items()}


def test_a_file_that_is_not_registered_is_refused_without_a_download(server):
    with pytest.raises(ValueError, match=r"'passwords\.csv' is not a registered file"):
        fetch("passwords.csv")
    assert not server.requests


def test_a_data_folder_replaces_every_download(server, monkeypatch, tmp_path):
    monkeypatch.setenv("REGNET_DATA_DIR", str(tmp_path / "data"))
    assert list_datasets()[2] == (*TOY, "missing, 0.0 MB")
    for name, body in CONTENT.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(body)
    assert list_datasets()[2] == (*TOY, "REGNET_DATA_DIR")
    assert fetch("toy/near/tfs.csv") == tmp_path / "data/toy/near/tfs.csv" and load_dataset("toy-near").x.shape == (2, 2)
    own = tmp_path / "data/toy/near/tfs.csv"
    own.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"{own} has sha256:.*, expected .*: it is damaged or another version; replace it"):
        load_dataset("toy-near")
    assert own.read_bytes() == b"damaged", "the user's own file is not replaced"
    own.unlink()
    with pytest.raises(FileNotFoundError, match=r"REGNET_DATA_DIR is .* has no toy/near/tfs\.csv.*unset the variable"):
        load_dataset("toy-near")
    assert not server.requests


# The real benchmark networks


@pytest.mark.parametrize(
    ("cells", "kind", "shape"),
    [("mESC", kind, (1120, 421)) for kind in ("lofgof", "string", "non-specific", "specific")]
    + [("mDC", kind, (821, 383)) for kind in ("string", "non-specific", "specific")]
    + [("hHEP", kind, (948, 425)) for kind in ("string", "non-specific", "specific")],
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


def test_the_counts_of_celltypist_with_the_curated_edges_of_trrust(real_file):
    """The numbers of its line in the list, whole counts, and edges that TRRUST lists; a gene is not its own regulator."""
    network = pd.read_csv(real_file("trrust/human.tsv"), sep="\t")
    data = load_dataset("celltypist-trrust", dtype=torch.float64)
    listed = list_datasets()[1]
    assert (listed.shape, listed.edges) == ("1054 x 559", "2658") and tuple(data.x.shape) == (1054, 559)
    names = np.array(data.gene_names)[data.edge_index.numpy()]
    assert (
        set(map(tuple, names.T)) < set(zip(network["TF"], network["Target"], strict=True)) and (names[0] != names[1]).all()
    )
    assert len(np.unique(data.edge_index)) == 1054 and (data.x > 0).double().mean(dim=1).min() > 0.05
    counts, per_count = recover_counts(data.x)
    torch.testing.assert_close(torch.log1p(counts * per_count), data.x, rtol=1e-8, atol=1e-8)


def test_without_the_wheel_of_celltypist_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(regnet.data, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"come with celltypist: pip install celltypist==1.7.1"):
        load_dataset("celltypist-trrust")
    assert list_datasets()[1].place == "needs celltypist"
    monkeypatch.setattr(regnet.data, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(ValueError, match=r"sample_cell_by_gene.csv is missing or of another version"):
        load_dataset("celltypist-trrust")


# pbmc68k


@pytest.fixture(scope="module")
def pbmc():
    return load_dataset("pbmc68k", dtype=torch.float64)


@pytest.fixture(scope="module")
def whole():
    """All 700 cells, genes x cells."""
    import scanpy

    return scanpy.datasets.pbmc68k_reduced().raw.to_adata().to_df().T.astype(np.float64)


def test_pbmc68k_has_its_shape_and_its_tfs(pbmc):
    listed = list_datasets()[0]
    assert tuple(pbmc.x.shape) == (765, 350)
    assert (listed.shape, listed.edges) == ("765 x 350", str(pbmc.edge_index.size(1)))
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


def edges_from(expression, tfs, level=0.05):
    """The documented rule by another route: numpy's correlations, their one-sided t test, SciPy's Benjamini-Hochberg."""
    varying = expression[expression.std(axis=1) > 0]
    r = pd.DataFrame(np.corrcoef(varying), varying.index, varying.index).loc[[tf for tf in tfs if tf in varying.index]]
    r = r.stack()[lambda pairs: [tf != gene for tf, gene in pairs.index]]
    freedom = expression.shape[1] - 2
    p_values = stats.t.sf(r * np.sqrt(freedom / (1 - r**2)), freedom)
    return set(r.index[stats.false_discovery_control(p_values) <= level])


def test_pbmc68k_edges_come_from_the_other_half_of_the_cells(pbmc, whole):
    place = {cell.tobytes(): number for number, cell in enumerate(whole.to_numpy().T.copy())}
    assert len(place) == 700, "every cell can be told by its values"
    mine = [place[cell.tobytes()] for cell in pbmc.x.numpy().T.copy()]
    assert len(set(mine)) == 350
    others = np.setdiff1d(np.arange(700), mine)
    got = {(pbmc.gene_names[a], pbmc.gene_names[b]) for a, b in pbmc.edge_index.T.tolist()}
    assert got == edges_from(whole.iloc[:, others], PBMC68K_TFS)
    assert got != edges_from(whole.iloc[:, mine], PBMC68K_TFS), "the halves must differ for the comparison to mean anything"
    assert pbmc.edge_index.size(1) == len(got)


def test_pbmc68k_ignores_the_data_folder(monkeypatch, tmp_path, pbmc):
    monkeypatch.setenv("REGNET_DATA_DIR", str(tmp_path))
    assert torch.equal(load_dataset("pbmc68k").edge_index, pbmc.edge_index)
