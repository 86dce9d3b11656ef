"""Files as others write them: awkward names, other separators, and everything that can be wrong with them."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

from regnet.io import (
    add_network,
    dataset_name,
    join_network,
    read_data,
    read_edges,
    read_expression,
    read_names,
    to_memory,
)

AWKWARD = ["NA", "nan", "NULL", "TRUE", "007", "1-Mar", "1e5", "HLA DRA", 'beta"2', "5'nt", "ß-catenin", "None"]


# expression


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t"), ("txt", "\t"), ("csv", ";"), ("txt", ",")])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_awkward_names_and_exact_values_survive_every_format(tmp_path, suffix, separator, compress, line_end):
    values = np.random.default_rng(0).normal(size=(len(AWKWARD), 3)) * 10.0 ** np.arange(-1, 2)
    frame = pd.DataFrame(values, index=AWKWARD, columns=["NA", "cell, 2", "3"])
    path = tmp_path / f"x.{suffix}{'.gz' if compress else ''}"
    frame.to_csv(path, sep=separator, lineterminator=line_end, encoding="utf-8-sig", index_label="gene" if compress else "")
    got = read_expression(path)
    assert got.gene_names == AWKWARD and got.cell_names == ["NA", "cell, 2", "3"]
    assert got.x.dtype == np.float64
    np.testing.assert_array_equal(got.x, values)


def test_the_separator_is_the_one_the_header_has_most_of(write):
    assert read_expression(write("x.csv", "g\tc,1\tc,2\nA\t1\t2\n")).cell_names == ["c,1", "c,2"]
    assert read_expression(write("x.tsv", "g;a;b\nA;1;2\n")).x.tolist() == [[1, 2]]


def test_a_header_without_a_name_for_the_first_column_as_r_writes_it(write):
    got = read_expression(write("x.txt", '"c1"\t"c2"\n"A"\t1\t2\n"B"\t3\t4\n'))
    assert got.cell_names == ["c1", "c2"] and got.gene_names == ["A", "B"] and got.x.tolist() == [[1, 2], [3, 4]]


def test_blank_lines_and_spaces_around_names_are_no_genes(write):
    assert read_expression(write("x.csv", "\ng,c\n\n A ,1\n,\n\n")).gene_names == ["A"]


def test_gzip_is_told_by_content_not_by_suffix(write):
    assert read_expression(write("x.csv", gzip.compress(b"g,c\nA,1\n"))).x.tolist() == [[1]]
    assert read_expression(write("x.csv.gz", "g,c\nA,1\n")).x.tolist() == [[1]]


def test_names_that_differ_in_case_are_different_genes(write):
    assert read_expression(write("x.csv", "g,c\nSpi1,1\nSPI1,2\n")).gene_names == ["Spi1", "SPI1"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "", ["file is empty"]),
        ("x.csv", "\n \n", ["file is empty"]),
        ("x.csv.gz", gzip.compress(b"", mtime=0), ["file is empty"]),
        ("x.csv.gz", gzip.compress(b"g,c\n" + bytes(range(65, 90)) * 999)[:-20], ["damaged", "end-of-stream"]),
        ("x.csv.gz", b"\x1f\x8b nonsense", ["damaged or of another kind"]),
        ("x.csv", b"\xff\xfeg\x00,\x00", ["UTF-8", "another kind"]),
        ("x.csv", "g,c1,c2\nA,1,2\nB,1\n", ["line 3", "expected 3 fields", "got 2"]),
        ("x.csv", "g,c1,c2\nA,1,2\nB,1,2,3\n", ["line 3", "expected 3 fields", "got 4"]),
        ("x.csv", "g,c1,c2\nA,1,2\nB,1,high\n", ["line 3", "gene 'B'", "column 'c2'", "must be a number", "'high'"]),
        ("x.csv", "g;c1;c2\nA;1,5;2\n", ["gene 'A'", "'1,5'", "decimal comma?"]),
        ("x.csv", "g,c1,c2\nA,1,\n", ["gene 'A'", "column 'c2'", "is missing", "impute"]),
        ("x.csv", "g,c1,c2\nA,NA,2\n", ["column 'c1'", "is missing", "'NA'"]),
        ("x.csv", "g,c1,c2\nA,nan,2\n", ["is missing"]),
        ("x.csv", "g,c1,c2\nA,1,-inf\n", ["column 'c2'", "must be finite", "-inf"]),
        ("x.csv", "g,c1\nA,1\nB,2\nA,3\n", ["unique", "more than once: A;"]),
        ("x.csv", "g,c1\nA,1\n,2\n", ["gene 2 has none"]),
        ("x.csv", "g\nA\nB\n", ["2 genes and 0 cells", "tabs, commas or semicolons"]),
        ("x.csv", "g,c1,c2\n", ["0 genes and 2 cells"]),
        ("x.xlsx", "PK", ["ends in one of .csv", "convert or rename"]),
        ("x", "g,c\nA,1\n", ["ends in one of"]),
    ],
)
def test_what_is_wrong_with_an_expression_file_is_said(write, name, content, words):
    path = write(name, content)
    with pytest.raises(ValueError) as caught:
        read_expression(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", "none.tsv.gz", "none.h5ad", "none.zarr"])
@pytest.mark.parametrize("read", [read_expression, read_names, lambda path: read_edges(path, [])])
def test_a_missing_file_is_named(tmp_path, name, read):
    with pytest.raises(FileNotFoundError, match=r"no (such )?file"):
        read(tmp_path / name)


# edges

GENES = ["SPI1", "LYZ", "CD74", "NA"]


@pytest.mark.parametrize(
    "header",
    [
        "Gene1,Gene2",
        "TF,Target",
        "source,target",
        "regulator,target",
        "TF_gene,Target_gene",
        "from,to",
        "GENE1,GENE2",
        "tf,TARGET",
    ],
)
def test_named_columns_are_found_wherever_they_are(write, header):
    one, two = header.split(",")
    assert read_edges(write("e.csv", f"{header}\nSPI1,NA\n"), GENES) == ([("SPI1", "NA")], [])
    assert read_edges(write("e.tsv", f"weight\t{two}\t{one}\n0.5\tNA\tSPI1\n"), GENES).pairs == [("SPI1", "NA")]
    assert read_edges(write("e.csv", f",{header}\n0,SPI1,NA\n"), GENES).pairs == [("SPI1", "NA")]
    assert read_edges(write("e.txt", f"{one}\t{two}\n1\tSPI1\tNA\n"), GENES).pairs == [("SPI1", "NA")], "as R writes it"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("SPI1,LYZ\nSPI1,CD74\n", [("SPI1", "LYZ"), ("SPI1", "CD74")]),
        ("spi1,lyz\nSPI1,CD74\n", [("spi1", "lyz"), ("SPI1", "CD74")]),
        ("a,b\nSPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("SPI1,b\nSPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("a,b,weight\nSPI1,LYZ,0.3\n", [("SPI1", "LYZ")]),
        (",a,b\n0,SPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("a;b\nSPI1;LYZ\n", [("SPI1", "LYZ")]),
        ("\ufeffSPI1\tLYZ\r\nLYZ\tNA\r\n", [("SPI1", "LYZ"), ("LYZ", "NA")]),
        ("SPI1,GONE\nSPI1,LYZ\n", [("SPI1", "LYZ")]),
    ],
)
def test_else_the_first_two_columns_count_and_a_first_line_of_two_genes_is_no_header(write, text, pairs):
    assert read_edges(write("e.csv", text), GENES).pairs == pairs


def test_a_label_of_zero_is_no_edge_and_is_said(write):
    text = "TF,Target,label\nSPI1,LYZ,1\nSPI1,CD74,0\nLYZ,CD74,0.0\nLYZ,NA,1.0\n"
    pairs, notices = read_edges(write("e.csv", text), GENES)
    assert pairs == [("SPI1", "LYZ"), ("LYZ", "NA")]
    assert notices == ["passed over 2 of 4 pairs, which have Label 0"]
    assert read_edges(write("e.csv", "x,y,Label\nSPI1,LYZ,0\nSPI1,CD74,1\n"), GENES).pairs == [("SPI1", "CD74")]
    assert read_edges(write("e.csv", "Label,x,y\n0,SPI1,LYZ\n1,SPI1,CD74\n"), GENES).pairs == [("SPI1", "CD74")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("TF\nSPI1\n", ["expected two columns", "'TF'"]),
        ("SPI1 LYZ\n", ["expected two columns", "'SPI1 LYZ'"]),
        ("TF,Target\n", ["at least one edge", "got 0 pairs"]),
        ("TF,Target,Label\nSPI1,LYZ,0\n", ["at least one edge", "got 1 pairs"]),
        ("TF,Target,Label\nSPI1,LYZ,2\n", ["line 2", "Label of 1", "'2'"]),
        ("TF,Target,Label\nSPI1,LYZ,yes\n", ["line 2", "'yes'"]),
        ("TF,Target,Label\nSPI1,LYZ\n", ["line 2", "Label", "''"]),
        ("TF,Target\nSPI1,LYZ\nSPI1\n", ["line 3", "a regulator and a target", "'SPI1'"]),
        ("TF,Target\n,LYZ\n", ["line 2", "a regulator and a target"]),
    ],
)
def test_what_is_wrong_with_an_edge_file_is_said(write, text, words):
    path = write("e.csv", text)
    with pytest.raises(ValueError) as caught:
        read_edges(path, GENES)
    for word in [str(path), *words]:
        assert word in str(caught.value)


# lists of names


@pytest.mark.parametrize(
    "text",
    [
        ",TF,index\n0,SPI1,0\n1,NA,1\n",
        "SPI1\nNA\n",
        "gene\tx\nSPI1\t1\nNA\t2\n",
        "\ufefftf\r\nSPI1\r\n NA \r\nSPI1\r\n",
        "SPI1,x\nNA,y",
    ],
)
def test_names_come_from_the_column_tf_or_gene_or_the_first(write, text):
    assert read_names(write("tfs.csv", text)) == ["SPI1", "NA"]


def test_a_list_without_names_is_refused(write):
    with pytest.raises(ValueError, match=r"tfs\.csv: expected names of genes"):
        read_names(write("tfs.csv", "TF\n"))


# finding the names


def test_what_was_matched_and_what_was_dropped_is_counted_and_shown():
    pairs = [("spi1", "LYZ"), ("SPI1", "lyz"), ("SPI1", "X1"), ("X2", "X3"), ("cd4", "LYZ"), ("LYZ", "Cd4")]
    network = join_network(pairs, ["SPI1", "LYZ", "CD4", "Cd4"], ["lyz", "X9"])
    assert network.edge_index.tolist() == [[0, 1], [1, 3]], "repeated edges count once, also where spelt differently"
    assert network.is_tf.tolist() == [False, True, False, False]
    assert network.notices == [
        "2 names of the edges match a gene only ignoring case: spi1, lyz",
        "3 names of the edges are no genes of the expression: X1, X2, X3; 3 of 6 edges are dropped",
        "1 name of the edges could be several genes, ignoring case: cd4; 3 of 6 edges are dropped",
        "1 name of the transcription factors matches a gene only ignoring case: lyz",
        "1 name of the transcription factors is no gene of the expression: X9",
    ]


def test_an_exact_match_goes_first_and_gives_no_notice():
    network = join_network([("Cd4", "CD4"), ("CD4", "LYZ")], ["CD4", "Cd4", "LYZ"])
    assert network.edge_index.tolist() == [[1, 0], [0, 2]] and network.notices == []
    assert network.is_tf.tolist() == [True, True, False]


def test_only_the_first_few_names_are_shown():
    network = join_network([("A", "B")] + [("A", f"X{k}") for k in range(9)], ["A", "B"])
    assert "9 names of the edges are no genes of the expression: X0, X1, X2, X3, X4 and 4 more" in network.notices[0]


def test_a_network_of_other_genes_is_an_error():
    with pytest.raises(ValueError, match="the edges name X, Y, the genes are A, B; use the same kind of names"):
        join_network([("X", "Y")], ["A", "B"], cells=["c1"])
    with pytest.raises(ValueError, match="no edge is between two genes"):
        join_network([("A", "Y")], ["A", "B"])
    with pytest.raises(ValueError, match="none of the transcription factors, X, is a gene"):
        join_network([("A", "B")], ["A", "B"], ["X"])


def test_a_matrix_of_cells_x_genes_is_told_from_its_columns():
    with pytest.raises(ValueError, match="genes in rows and cells in columns; transpose it"):
        join_network([("spi1", "LYZ")], ["cell1", "cell2"], cells=["SPI1", "LYZ"])


# whole data sets


def test_a_data_set_from_files_names_the_file_in_errors(write):
    data = read_data(write("blood.v2.tsv.gz", gzip.compress(b"g\tc\nSPI1\t1\nLYZ\t2\n")))
    assert data.name == "blood.v2" and data.x.tolist() == [[1], [2]] and data.x.dtype == torch.float64
    edges = write("e.csv", "X,Y\nX,Z\n")
    with pytest.raises(ValueError, match=r"e\.csv: no edge is between two genes"):
        add_network(data, edges)


def test_another_network_keeps_what_the_data_set_says_of_its_tfs_unless_told(write, tiny_data):
    edges, tfs = write("e.csv", "G3,G9\nG3,G8\n"), write("t.csv", "G5\n")
    before = tiny_data.edge_index
    replaced, _ = add_network(tiny_data, edges)
    assert replaced.edge_index.tolist() == [[3, 3], [9, 8]] and replaced.is_tf.tolist() == tiny_data.is_tf.tolist()
    assert replaced.listed_edges == 2 and tiny_data.edge_index is before
    assert add_network(tiny_data, edges, tfs)[0].is_tf.nonzero().tolist() == [[5]]


@pytest.mark.parametrize(
    ("path", "name"), [("a/b.csv", "b"), ("b.x.TSV.gz", "b.x"), ("b.h5ad", "b"), ("b.zarr/", "b"), ("b.dat", "b.dat")]
)
def test_a_data_set_is_called_after_its_file(path, name):
    assert dataset_name(path) == name


def test_a_tensor_stays_as_it_is(tiny_data):
    assert to_memory(tiny_data) is tiny_data
    assert isinstance(tiny_data, Data)
