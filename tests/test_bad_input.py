"""Every row of the table "Input that is wrong, and what happens" (book/bad_input.md) that no other file tests."""

from __future__ import annotations

import gzip
import math
import re
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from examples import close, mlp
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix
from torch_geometric.data import Data

import regnet
from regnet import (
    RegNet,
    effective_weight,
    effective_weight_on_graph,
    in_degree,
    james_stein_weight,
    kink_distance,
    local_affine,
    make_dataset,
    neighbor_mean,
    noise_variance,
    posterior_mean,
    posterior_weight,
    prior_variance,
    secant_weight,
)
from regnet.blockwise import effective_weight_blockwise
from regnet.checkpoint import load_checkpoint
from regnet.io import add_network, join_network, read_data, read_edges, read_expression, read_names, to_memory

PAGE = Path(__file__).parents[1] / "book" / "bad_input.md"


def refused(function, *words, error=ValueError):
    """Whether the function raises in one line that has the words."""
    with pytest.raises(error) as caught:
        function()
    for word in words:
        assert word in str(caught.value)


def test_the_table_and_the_tests_agree():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\* - (?!Input$).+?\n  - .+?\n  - (.+)$", text, re.M)
    assert len(rows) == text.count("\n* - ") - text.count("\n* - Input\n") > 50
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) >= len(rows) and all("`" in row for row in rows), "every row names a test"
    here = [name for name in globals() if name.startswith("test_") and name != "test_the_table_and_the_tests_agree"]
    assert sorted(name for name in named if "::" not in name) == sorted(here)
    for name in named:
        if "::" in name:
            file, function = name.split("::")
            assert f"\ndef {function}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), name


# Expression and edges in memory

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool, torch.complex64]
PAIRS = [
    lambda x, m: posterior_mean(x, m, 0.5),
    lambda x, m: effective_weight(lambda x, m: x + m, x, m, "jvp"),
    lambda x, m: secant_weight(lambda x, m: x + m, x, m),
    lambda x, m: prior_variance(x, m, 1.0),
    noise_variance,
]


@pytest.mark.parametrize("function", PAIRS)
@given(
    shapes=st.tuples(*[st.lists(st.integers(1, 3), max_size=3).map(tuple)] * 2),
    same=st.booleans(),
    dtypes=st.tuples(*[st.sampled_from(DTYPES)] * 2),
)
@example(shapes=((2, 3), (2, 3)), same=True, dtypes=(torch.float32, torch.float32))
@example(shapes=((2, 3), (2, 3)), same=True, dtypes=(torch.float64, torch.float64))
@example(shapes=((2, 3), (2, 3)), same=False, dtypes=(torch.float32, torch.float64))
def test_shapes_and_dtypes_fit_or_are_refused(function, shapes, same, dtypes):
    if same:
        shapes, dtypes = (shapes[0],) * 2, (dtypes[0],) * 2
    x, m = (torch.ones(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
    fits = shapes[0] == shapes[1] and len(shapes[0]) == 2 and dtypes in ((torch.float32,) * 2, (torch.float64,) * 2)
    if fits:
        assert function(x, m).shape[0] == shapes[0][0]
    else:
        with pytest.raises((TypeError, ValueError), match=r"float32 or float64|genes, cells|one dtype"):
            function(x, m)


@pytest.mark.parametrize("value", [[[1.0]], np.ones((1, 1)), pd.DataFrame([[1.0]]), 1.0, None, "x"])
def test_what_is_no_tensor_is_refused(value):
    for function in PAIRS:
        refused(lambda function=function: function(value, value), "float64; got", "torch.as_tensor", error=TypeError)


def test_two_devices_are_refused_by_name():
    layer, x, edges = mlp(2), torch.ones(3, 2).double(), torch.tensor([[0], [1]])
    elsewhere = x.to("meta")
    for function in PAIRS[:4]:
        refused(lambda function=function: function(x, elsewhere), "x on cpu and m on meta", "m.to(x.device)")
    for function in (effective_weight, kink_distance):
        refused(lambda function=function: function(layer, x, elsewhere), "x on cpu and m on meta")
    refused(lambda: local_affine(layer, x[0], elsewhere[0]), "x on cpu and m on meta")
    for graph in (lambda: neighbor_mean(x, edges.to("meta")), lambda: effective_weight_on_graph(layer, x, edges.to("meta"))):
        refused(graph, "x on cpu and edge_index on meta", "edge_index.to(x.device)")
    for method in ("exact", "jvp", "finite-difference"):
        refused(lambda method=method: effective_weight(mlp(2).to("meta"), x, -x, method), "x on cpu and the layer on meta")
    refused(lambda: secant_weight(mlp(2).to("meta"), x, -x), "x on cpu and the layer on meta")


def test_no_gene_gives_no_weight(normal):
    x = normal(0, 4)
    assert effective_weight(mlp(), x, x).shape == secant_weight(mlp(), x, x).shape == (0,)
    assert posterior_mean(x, x, 0.5).shape == (0, 4) and prior_variance(x, x, 1.0).shape == (0,)
    refused(lambda: effective_weight_on_graph(mlp(), x, torch.tensor([[0], [0]])), "there are 0 genes")


def test_no_cell_is_refused_where_a_number_would_follow(normal):
    x = normal(3, 0)
    refused(lambda: prior_variance(x, x, 1.0), "at least one cell")
    refused(lambda: noise_variance(x, x), "at least one cell")
    refused(lambda: effective_weight(mlp(), x, x), "takes 4 features", "got 0")
    assert posterior_mean(x, x, 0.5).shape == (3, 0)


def test_one_gene_can_only_equal_its_mean():
    loop = torch.tensor([[0], [0]])
    x = torch.tensor([[1.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    assert torch.equal(neighbor_mean(x, loop), x)
    assert effective_weight_on_graph(mlp(), x, loop).isnan().tolist() == [True]


def test_one_cell_has_a_weight_but_no_james_stein():
    x, m = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [1.0]])
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.25, 0.75]])
    weight = effective_weight(layer, x, m)
    assert weight[0] == 0.25 and weight[1].isnan()
    assert prior_variance(x, m, 1.0).tolist() == [3, 0], "(x - m)^2 less the noise"
    refused(lambda: james_stein_weight(x, m, 1.0), "more than 2 columns", "got 1")


def test_a_constant_gene_has_a_weight_unless_it_equals_its_mean(normal):
    x = normal(4, 4)
    x[1], x[2], x[3] = 2.5, 2.5, 0
    weight = effective_weight_on_graph(mlp(), x, torch.tensor([[0, 1, 0], [1, 2, 3]]))
    assert 0 <= weight[1] <= 1 and 0 <= weight[3] <= 1, "their mean is another"
    assert weight[2].isnan(), "its mean is the same constant"


def test_a_matrix_of_zeros_has_no_weight():
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    assert effective_weight_on_graph(mlp(), zeros, torch.tensor([[0, 1], [1, 2]])).isnan().all()


def test_only_self_loops_leave_no_weight(normal):
    genes = torch.arange(5)
    assert effective_weight_on_graph(mlp(), normal(5, 4), torch.stack([genes, genes])).isnan().all()


def test_a_reversed_edge_is_another_edge():
    x = torch.tensor([[1.0], [3.0]])
    assert neighbor_mean(x, torch.tensor([[0], [1]])).tolist() == [[0], [1]]
    assert neighbor_mean(x, torch.tensor([[1], [0]])).tolist() == [[3], [0]]
    assert neighbor_mean(x, torch.tensor([[0, 1], [1, 0]])).tolist() == [[3], [1]]


def test_an_isolated_gene_has_the_mean_zero_and_no_weight(normal):
    x, edges = normal(4, 4), torch.tensor([[0], [1]])
    assert in_degree(edges, 4).tolist() == [0, 1, 0, 0]
    assert (neighbor_mean(x, edges)[2:] == 0).all()
    assert effective_weight_on_graph(mlp(), x, edges).isnan().tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    "edges",
    [
        [[0], [1]],
        np.array([[0], [1]]),
        *(torch.tensor([[0], [1]]).to(kind) for kind in (torch.bool, torch.half, torch.int16)),
    ],
)
def test_edges_of_another_type_are_refused(edges):
    for call in (lambda: in_degree(edges, 2), lambda: neighbor_mean(torch.ones(2, 1), edges)):
        refused(call, "edge_index must be an integer torch.Tensor (2, edges)", "dtype=torch.long", error=TypeError)


def test_edges_in_rows_are_refused_unless_there_are_two():
    rows = torch.tensor([[0, 1], [0, 2], [1, 2]])
    refused(lambda: in_degree(rows, 3), "got shape (3, 2)", "transpose it, edge_index.T")
    assert in_degree(rows.T, 3).tolist() == [0, 1, 2]
    assert in_degree(rows[:2], 3).tolist() == [1, 0, 1], "0 -> 0 and 1 -> 2, and not 0 -> 1 and 0 -> 2"


@pytest.mark.parametrize("gene", [-1, 3, 2**31, 2**32, 2**62])
def test_a_gene_that_does_not_exist_is_named_however_large(gene):
    x, graph = torch.ones(3, 2), torch.tensor([[0], [1]])
    wrong = torch.tensor([[0, gene], [1, 1]])
    model = RegNet(2, hidden_channels=4, latent_channels=2).eval()
    for call in (
        lambda: neighbor_mean(x, wrong),
        lambda: effective_weight_on_graph(torch.nn.Linear(4, 1), x, wrong),
        lambda: model(x, wrong, graph),
        lambda: model(x, graph, wrong),
    ):
        refused(call, f"edge 1 ({gene} -> 1) names a gene that does not exist", "3 genes, numbered 0 to 2")


def test_a_model_or_another_method_leaves_the_width_to_pytorch(normal):
    x, edges = normal(3, 5), torch.tensor([[0], [1]])
    model = RegNet(4, hidden_channels=4, latent_channels=2).double().eval()
    for call in (
        lambda: model(x, edges, edges),
        lambda: effective_weight(mlp(), x, -x, "jvp"),
        lambda: effective_weight(mlp(), x, -x, "finite-difference"),
        lambda: secant_weight(mlp(), x, -x),
    ):
        refused(call, "shapes cannot be multiplied", error=RuntimeError)


FRAME = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], index=["A", "B"], columns=["c1", "c2"])


@pytest.mark.parametrize("frame", [FRAME.astype(complex), FRAME.astype("datetime64[ns]"), FRAME.astype("timedelta64[ns]")])
def test_complex_numbers_and_dates_are_no_expression(frame):
    refused(lambda: make_dataset(frame, [("A", "B")]), "must be numeric", str(frame.dtypes.iloc[0]), error=TypeError)


@pytest.mark.parametrize("dtype", [bool, int, np.float16, "Int64", object])
def test_booleans_and_whole_numbers_are_taken_as_numbers(dtype):
    frame = pd.DataFrame([[0, 1], [1, 1]], index=["A", "B"]).astype(dtype)
    assert make_dataset(frame, [("A", "B")]).x.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    "edges", [pd.DataFrame({"regulator": ["A"], "target": ["B"]}), [("A", "B", 1)], [("A",)], None, torch.tensor([[0], [1]])]
)
def test_edges_that_are_no_pairs_are_refused(edges):
    refused(lambda: make_dataset(FRAME, edges), "pairs (regulator, target)", "zip(", error=TypeError)


def test_a_frame_of_cells_x_genes_is_told_from_the_edges():
    refused(lambda: make_dataset(FRAME.T, [("A", "b")]), "name columns of the expression", "transpose it")


# Scales


@pytest.mark.parametrize("layer", [mlp(bias=False), torch.nn.Linear(8, 3, bias=False).double()])
@given(power=st.integers(-30, 30), seed=st.integers(0, 99))
@example(power=30, seed=0)
@example(power=-30, seed=0)
def test_the_unit_of_expression_does_not_matter_without_biases(layer, power, seed):
    x, m = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit = 10.0**power
    for weight in (effective_weight, secant_weight):
        close(weight(layer, unit * x, unit * m), weight(layer, x, m))
    close(effective_weight(layer, unit * x, unit * m, "jvp"), effective_weight(layer, x, m))
    graph = torch.tensor([[0, 1, 1], [2, 2, 3]])
    close(effective_weight_on_graph(layer, unit * x, graph), effective_weight_on_graph(layer, x, graph), rtol=1e-8)
    close(posterior_weight(unit * x.abs(), unit * m.abs()), posterior_weight(x.abs(), m.abs()))
    close(posterior_mean(unit * x, unit * m, 0.3) / unit, posterior_mean(x, m, 0.3))
    close(james_stein_weight(unit * x, unit * m, 0.5 * unit**2), james_stein_weight(x, m, 0.5))
    close(prior_variance(unit * x, unit * m, 0.5 * unit**2) / unit**2, prior_variance(x, m, 0.5))


def test_with_biases_the_unit_decides_which_units_are_active(normal):
    x, m = normal(2, 30, 4)
    layer = mlp()
    silent = local_affine(layer, torch.zeros(4).double(), torch.zeros(4).double())
    tiny = effective_weight(layer, 1e-30 * x, 1e-30 * m)
    to_x, to_m = ((x - m) @ part.T for part in (silent.A, silent.B))
    close(tiny, to_x.norm(dim=1) / (to_x.norm(dim=1) + to_m.norm(dim=1)))  # only the biases say which units are active
    layer[0].bias.data.zero_()
    huge = effective_weight(mlp(), 1e30 * x, 1e30 * m)
    close(huge, effective_weight(layer, x, m))  # beside 1e30 no bias counts
    assert not torch.allclose(tiny, huge)


def test_variances_of_large_expression_need_float64():
    x, m = torch.full((1, 4), 1e30), torch.zeros(1, 4)
    assert prior_variance(x, m, 1.0).item() == noise_variance(x, m).item() == math.inf
    assert prior_variance(x.double(), m.double(), 1.0).item() == pytest.approx(1e60)
    small = torch.full((1, 4), 1e-30)
    assert noise_variance(small, m).item() == 0 and noise_variance(small.double(), m.double()).item() == pytest.approx(5e-61)


def test_what_the_dtype_cannot_hold_is_refused_or_zero():
    refused(lambda: make_dataset(1e300 * FRAME, [("A", "B")]), "expression must be finite; got inf")
    assert (make_dataset(1e-300 * FRAME, [("A", "B")]).x == 0).all()
    assert make_dataset(1e300 * FRAME, [("A", "B")], dtype=torch.float64).x.max() == 4e300


# Tables on disk

TABLE = "gene,c1,c2\nA,1.25,-2\nB,30,0.5\nC,1e-3,7\n"
VALUES = [[1.25, -2], [30, 0.5], [0.001, 7]]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        (b'"c1"\t"c2"\n"A"\t1.25\t-2\n"B"\t30\t0.5\n"C"\t1e-3\t7\n'),
        b'\xef\xbb\xbf"c1","c2"\n"A",1.25,-2\n"B",30,0.5\n"C",1e-3,7\n',
        gzip.compress(TABLE[:20].encode()) + gzip.compress(TABLE[20:].encode()) + bytes(5),
    ],
    ids=["mark", "Windows", "old Mac", "Excel", "R", "R with a mark", "two gzip members"],
)
def test_the_ways_of_other_programs_are_taken(write, content):
    got = read_expression(write("x.csv", content))
    assert got.x.tolist() == VALUES and got.gene_names == ["A", "B", "C"] and got.cell_names == ["c1", "c2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("read", [read_expression, read_names, lambda path: read_edges(path, [])])
def test_text_that_is_not_utf_8_is_refused(write, encoding, read):
    path = write("x.csv", TABLE.replace("A", "ä").encode(encoding))
    refused(lambda: read(path), "x.csv: expected text (UTF-8)", "save it as CSV in UTF-8")


@pytest.mark.parametrize("content", [b"PK\x03\x04\x14\x00\x06\x00", b"\x89HDF\r\n\x1a\n", b"BZh91AY&SY\xe2\x00"])
def test_a_spreadsheet_or_archive_called_csv_is_refused(write, content):
    refused(lambda: read_expression(write("x.csv", content)), "damaged or of another kind", "save it as CSV in UTF-8")


@pytest.mark.parametrize("text", ['gene c1 c2\n"A" 1 2\n', '"c1" "c2"\n"A" 1 2\n', "gene|c1\nA|1\n"])
def test_another_separator_is_refused(write, text):
    refused(lambda: read_expression(write("x.txt", text)), "separated by tabs, commas or semicolons")


@pytest.mark.parametrize("entry", ["1,5", "1.234,5", "1,000.5"])
def test_a_decimal_comma_is_refused(write, entry):
    path = write("x.csv", f"gene;c1\nA;{entry}\n")
    refused(lambda: read_expression(path), "line 2", "gene 'A'", f"'{entry}' (a decimal comma?); write decimal points")
    path = write("x.csv", "gene,c1,c2\nA,1,5,2,5\n")
    refused(lambda: read_expression(path), "line 2: expected 3 fields as in the header, got 5")


def test_a_point_between_thousands_cannot_be_told(write):
    assert read_expression(write("x.csv", "gene;c1\nA;1.234\n")).x.tolist() == [[1.234]]


@pytest.mark.parametrize("entry", ["1_000", "0x10", "TRUE", "1+2j", "1 000", "1d5", "#DIV/0!", "\u22121", "'1'", "_", "1e"])
def test_what_is_no_decimal_number_is_refused(write, entry):
    path = write("x.csv", f"gene,c1,c2\nA,1,{entry}\n")
    refused(lambda: read_expression(path), "line 2", "column 'c2' must be a number", repr(entry))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (" 1 ", 1),
        ("+1", 1),
        (".5", 0.5),
        ("1.", 1),
        ("1E+02", 100),
        ("\u00a01", 1),
        ("\u0661", 1),
        ("1e-400", 0),
        ('"2"', 2),
    ],
)
def test_a_number_may_be_written_in_other_ways(write, entry, value):
    assert read_expression(write("x.csv", f"gene,c1\nA,{entry}\n")).x.tolist() == [[value]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [("1e400", "must be finite"), ("Infinity", "must be finite"), ("#N/A", "is missing"), ("NaN", "is missing")],
)
def test_a_value_that_is_missing_or_infinite_is_refused(write, entry, words):
    refused(lambda: read_expression(write("x.csv", f"gene,c1,c2\nA,{entry},1\n")), "column 'c1'", words, "impute it")


@pytest.mark.parametrize("text", ["gene,c1,c2,\nA,1,2,\n", "gene,c1,c2\nA,1,2,\n"])
def test_a_separator_at_the_end_of_the_lines_is_refused(write, text):
    refused(lambda: read_expression(write("x.csv", text)), "line 2", "does the line end with a separator?")


@pytest.mark.parametrize(
    "text", ['gene,c1\n"A,1\nB,2\n', 'gene,c1\n"A,1\nB",2\nC,3\n', 'gene,"c1\nA,1\n', 'gene,c1\nA,"1\n']
)
def test_a_quotation_mark_that_never_closes_is_refused(write, text):
    path = write("x.csv", text)
    refused(lambda: read_expression(path), "line", "quotation mark")
    path = write("x.csv", text.replace("A", "A" * 200_000))
    refused(lambda: read_expression(path), "quotation mark")


@pytest.mark.parametrize("text", ["A,1.5,2\nB,3,4\n", "A,0,3,0\nB,1,0,0\n", "A,1.5\nB,2\n"])
def test_a_table_without_a_header_is_refused(write, text):
    refused(lambda: read_expression(write("x.csv", text)), "expected a header", "values of a gene, A")


@pytest.mark.parametrize("above", ["sep=,", "# from the second run", "# a, b and c"])
def test_a_line_above_the_header_is_refused(write, above):
    refused(lambda: read_expression(write("x.csv", f"{above}\n{TABLE}")), "x.csv", above.split(",")[0])


def test_blank_lines_count_as_lines(write):
    refused(lambda: read_expression(write("x.csv", "\n\ngene,c1\n\nA,1\n,\nB,high\n")), "line 7: the value of gene 'B'")
    refused(lambda: read_expression(write("x.csv", '\n\ngene,c1\n\nA,"1\n')), "line 5: expected quotation marks")


def test_a_value_too_many_in_every_line_cannot_be_told(write):
    got = read_expression(write("x.csv", "gene,c1\nA,1,2\nB,3,4\n"))
    assert got.cell_names == ["gene", "c1"] and got.x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("cells", ["c,c", "1,1", "0,0.5", "1,1.1", "nan,inf"])
def test_cells_may_be_called_anything(write, cells):
    """Time points, clusters, and what R makes of two clusters of one name."""
    got = read_expression(write("x.csv", f"gene,{cells}\nA,1,2\n"))
    assert got.x.tolist() == [[1, 2]] and got.cell_names == cells.split(",")


def test_different_whole_numbers_are_names_of_cells(write):
    assert read_expression(write("x.csv", ",0,1,2\nA,5,6,7\n")).cell_names == ["0", "1", "2"]


def test_a_table_that_is_cut_off_is_refused_unless_a_number_is_left(write):
    lines = TABLE.splitlines(keepends=True)
    for cut in range(len(TABLE)):
        try:
            got = read_expression(write("x.csv", TABLE[:cut]))
        except ValueError:
            continue
        rows = len(got.gene_names)
        assert got.gene_names == ["A", "B", "C"][:rows] and got.x[:-1].tolist() == VALUES[: rows - 1]
        whole = lines[rows].rstrip("\n").split(",")
        left = TABLE[:cut].splitlines()[rows].split(",")
        assert left[:-1] == whole[:-1] and whole[-1].startswith(left[-1]), "at most the last number has lost digits"
    assert read_expression(write("x.csv", "gene,c1\nA,1.25")).x.tolist() == [[1.25]]
    assert read_expression(write("x.csv", "gene,c1\nA,1.")).x.tolist() == [[1]], "that cannot be seen"


def test_a_gzip_file_that_is_cut_off_is_refused_wherever(write):
    whole = gzip.compress((TABLE + "".join(f"G{k},{k},{k * k}\n" for k in range(60))).encode(), mtime=0)
    for cut in range(len(whole)):
        with pytest.raises(ValueError, match=r"x\.csv\.gz"):
            read_expression(write("x.csv.gz", whole[:cut]))


def test_a_bit_that_flipped_in_a_gzip_file_is_refused_or_harmless(write):
    whole = gzip.compress(TABLE.encode(), mtime=0)
    harmless = 0
    for place in range(len(whole)):
        for bit in range(8):
            try:
                got = read_expression(
                    write("x.csv.gz", whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
                )
            except ValueError:
                continue
            assert got.x.tolist() == VALUES and got.gene_names == ["A", "B", "C"]
            harmless += 1
    assert 0 < harmless < 8 * 10, "only in the header: the time, the system and the like"


def spelled_out(text):
    """A table without quotes, read in the plainest way: names and values."""
    lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    separator = max("\t,;", key=lines[0].count)
    rows = [line.split(separator) for line in lines[1:] if line.replace(separator, "").strip()]
    return [row[0].strip() for row in rows], [[float(entry) for entry in row[1:]] for row in rows]


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(TABLE)), st.integers(0, 4), st.text('\t,;\n\r "0123456789.eE+-_naifAß\0\ufeff', max_size=4)
        ),
        min_size=1,
        max_size=4,
    )
)
@example(edits=[(20, 0, "\r")])
@example(edits=[(14, 3, "1_0")])
def test_an_altered_table_is_read_as_it_stands_or_refused(tmp_path_factory, edits):
    text = TABLE
    for place, length, new in edits:
        text = text[:place] + new + text[place + length :]
    path = tmp_path_factory.getbasetemp() / "altered.csv"
    path.write_bytes(text.encode())
    try:
        got = read_expression(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert np.isfinite(got.x).all() and len(set(got.gene_names)) == len(got.gene_names) == len(got.x)
    assert got.x.shape[1] == len(got.cell_names)
    assume('"' not in text)
    assert spelled_out(text.removeprefix("\ufeff")) == (got.gene_names, got.x.tolist())


@given(content=st.binary(max_size=200) | st.binary(max_size=60).map(lambda content: b"\x1f\x8b\x08" + content))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    for read in (read_expression, read_names, lambda path: read_edges(path, ["A", "B"])):
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv.gz", "x.h5ad"])
def test_a_folder_in_place_of_a_file_is_said(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(lambda: read_expression(tmp_path / name), name, "but a folder", error=FileNotFoundError)


def test_other_kinds_of_names_are_shown_side_by_side(write):
    data = read_data(write("x.csv", "gene,c\nENSG00000066336,1\nENSG00000090382,2\n"))
    words = "the edges name SPI1, LYZ, the genes are ENSG00000066336, ENSG00000090382; use the same kind of names in both"
    refused(lambda: add_network(data, write("e.csv", "TF,Target\nSPI1,LYZ\n")), "e.csv", words)


def test_swapped_columns_are_told_from_the_transcription_factors():
    genes, pairs = ["SPI1", "LYZ", "CD74", "IRF8"], [("SPI1", "LYZ"), ("SPI1", "CD74")]
    swapped = [(target, regulator) for regulator, target in pairs]
    refused(lambda: join_network(swapped, genes, ["SPI1"]), "no regulator of the edges", "columns seem to be swapped")
    assert join_network(swapped, genes).edge_index.tolist() == [[1, 2], [0, 0]], "without the list it cannot be seen"
    for taken in (pairs, [*swapped, ("IRF8", "LYZ")], [("LYZ", "CD74")]):
        assert join_network(taken, genes, ["SPI1", "IRF8"]).edge_index.shape == (2, len(taken))


# Other files


def named(count, letter):
    return pd.DataFrame(index=[f"{letter}{number}" for number in range(count)])


@pytest.fixture
def weigh():
    """Two ways to use a matrix on disk: read it into memory, and weigh it block by block."""

    def in_blocks(data):
        return effective_weight_blockwise(torch.nn.Linear(2 * data.x.shape[1], 2), data.x, torch.tensor([[0], [1]]))

    return [to_memory, in_blocks]


@pytest.fixture
def store(tmp_path):
    """Writes a matrix (cells x genes) with AnnData and returns the path."""

    def to(x, suffix=".h5ad", cells=None, genes=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names that are numbers, and on what AnnData will write one day
            table = anndata.AnnData(x, obs=cells, var=genes)
            path = tmp_path / f"x{suffix}"
            table.write_h5ad(path) if suffix == ".h5ad" else table.write_zarr(path)
        return path

    return to


X = np.arange(12, dtype=np.float32).reshape(4, 3) + 0.5


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_genes_x_cells_where_cells_x_genes_belong_is_told_from_the_edges(store, write, suffix):
    edges = write("e.csv", "TF,Target\nG0,G1\n")
    data = read_data(store(X.T, suffix, cells=named(3, "G"), genes=named(4, "c")))
    refused(lambda: add_network(data, edges), "e.csv", "name columns of the expression", "transpose it")
    right, _ = add_network(read_data(store(X.T, ".h5ad", cells=named(3, "c"), genes=named(4, "G"))), edges)
    assert right.edge_index.tolist() == [[0], [1]]


def test_without_names_the_genes_are_numbered(store, tmp_path):
    assert read_data(store(X)).gene_names == ["0", "1", "2"]
    zarr.save(str(tmp_path / "plain.zarr"), X)
    plain = read_data(tmp_path / "plain.zarr")
    assert plain.gene_names == ["0", "1", "2", "3"] and plain.cell_names == [], "a plain array is genes x cells"


@pytest.mark.parametrize("names", [["A", "B", "A"], ["A", "", "B"]])
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_genes_without_a_name_of_their_own_are_refused(store, names):
    path = store(X, genes=pd.DataFrame(index=names))
    refused(lambda: read_data(path), "x.h5ad", "more than once: A" if "" not in names else "gene 2 has none")


def test_entries_that_are_no_real_numbers_are_refused(store, tmp_path):
    refused(lambda: read_data(store(X.astype(np.complex64))), "x.h5ad", "complex64", "not real numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr on text
        zarr.save(str(tmp_path / "text.zarr"), np.array([["1", "2"]]))
    refused(lambda: read_data(tmp_path / "text.zarr"), "text.zarr", "not real numbers")


@pytest.mark.parametrize("kind", [int, bool, np.float16])
def test_other_kinds_of_numbers_on_disk_are_taken(store, kind):
    assert to_memory(read_data(store(X.astype(kind)))).x.double().tolist() == X.astype(kind).T.astype(float).tolist()


@pytest.mark.parametrize(
    ("name", "words"), [("X", "its matrix X has no encoding of AnnData 0.7 or later"), ("matrix", "'matrix'")]
)
def test_another_hdf5_file_is_refused(tmp_path, name, words):
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file[name] = X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AnnData on what it did not write
        refused(lambda: read_data(tmp_path / "x.h5ad"), "x.h5ad cannot be read as .h5ad", words)


def test_an_h5ad_that_is_cut_off_is_refused_wherever(store):
    path = store(X)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 211):
        path.write_bytes(whole[:cut])
        refused(lambda: read_data(path), "x.h5ad cannot be read as .h5ad", "check the download")


def test_a_flipped_bit_among_the_numbers_of_an_h5ad_cannot_be_seen(store):
    path = store(X)
    whole = path.read_bytes()
    place = whole.index(X.tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    values = to_memory(read_data(path)).x.T.numpy()
    assert values[0, 0] != X[0, 0] and (values.ravel()[1:] == X.ravel()[1:]).all()


@pytest.mark.parametrize(("kind", "index"), [(csr_matrix, 3), (csc_matrix, 4), (csr_matrix, -1), (csr_matrix, 2**30)])
def test_a_damaged_index_of_a_sparse_matrix_is_refused_and_no_crash(store, weigh, kind, index):
    path = store(kind(X))
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = index
    for use in weigh:
        refused(lambda use=use: use(read_data(path)), "the matrix on disk cannot be read (", "ind", "download it again")


def test_a_block_of_zarr_that_is_cut_off_is_refused(store, weigh):
    path = store(np.tile(X, (100, 1)), ".zarr")
    block = path / "X" / "0.0"
    block.write_bytes(block.read_bytes()[:-40])
    for use in weigh:
        refused(lambda use=use: use(read_data(path)), "the matrix on disk cannot be read (", "download it again")


def test_a_block_of_zarr_that_is_missing_is_zeros(store):
    path = store(X, ".zarr")
    (path / "X" / "0.0").unlink()
    assert (to_memory(read_data(path)).x == 0).all()


# Checkpoints


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {**w, 3: torch.zeros(1)}, "it holds"),
        (lambda w: {name: value.to("meta") for name, value in w.items()}, "on the meta device"),
        (lambda w: {**w, "attention.key.bias": torch.zeros(8).to_sparse()}, "attention.key.bias are sparse"),
    ],
)
def test_weights_without_plain_names_and_numbers_are_refused(tmp_path, change, words):
    torch.save(change(RegNet(4, hidden_channels=8, latent_channels=4).state_dict()), tmp_path / "m.pth")
    refused(lambda: load_checkpoint(tmp_path / "m.pth"), "m.pth: expected", words)


def test_weights_that_are_not_finite_are_refused_when_they_are_used(tmp_path, tiny_data):
    state = RegNet(12, hidden_channels=8, latent_channels=4).double().state_dict()
    torch.save({name: value * torch.nan for name, value in state.items()}, tmp_path / "m.pth")
    layer = load_checkpoint(tmp_path / "m.pth").graphsage.layers[0].agg
    refused(lambda: regnet.shrinkage_table(layer, Data(**tiny_data.to_dict())), "weights must be finite", "diverge")
