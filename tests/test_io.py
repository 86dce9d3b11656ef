"""Files as others write them: awkward names, other separators, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import re
import sys
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from examples import refused
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from regnet import effective_weight_on_graph, make_dataset
from regnet.io import dataset_name, read_expression, read_names, read_network, read_weights, to_memory

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*X has negative values"
)  # of normal draws; where it counts, it is asked for

AWKWARD = ["NA", "nan", "NULL", "TRUE", "007", "1-Mar", "1e5", "HLA DRA", 'beta"2', "5'nt", "ß-catenin", "None"]
READERS = [read_expression, read_names, read_network]


def content(adata):
    """Genes, cells and values (genes x cells) as lists."""
    return adata.var_names.tolist(), adata.obs_names.tolist(), adata.X.T.tolist()


# Tables

TABLE = "gene,c1,c2\nA,1.25,-2\nB,30,0.5\nC,1e-3,7\n"
VALUES = [[1.25, -2], [30, 0.5], [0.001, 7]]


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t"), ("txt", "\t"), ("csv", ";"), ("txt", ",")])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_awkward_names_and_exact_values_survive_every_format(tmp_path, suffix, separator, compress, line_end):
    values = np.random.default_rng(0).normal(size=(len(AWKWARD), 3)) * 10.0 ** np.arange(-1, 2)
    frame = pd.DataFrame(values, index=AWKWARD, columns=["NA", "cell, 2", "3"])
    path = tmp_path / f"x.{suffix}{'.gz' if compress else ''}"
    frame.to_csv(path, sep=separator, lineterminator=line_end, encoding="utf-8-sig", index_label="gene" if compress else "")
    got = read_expression(path)
    assert got.X.dtype == np.float64 and content(got) == (AWKWARD, ["NA", "cell, 2", "3"], values.tolist())


@pytest.mark.parametrize(
    "text",
    [
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.replace(",", "\t"),
        b'"c1"\t"c2"\n"A"\t1.25\t-2\n"B"\t30\t0.5\n"C"\t1e-3\t7\n',
        b'\xef\xbb\xbf"c1","c2"\n"A",1.25,-2\n"B",30,0.5\n"C",1e-3,7\n',
        gzip.compress(TABLE[:20].encode(), mtime=0) + gzip.compress(TABLE[20:].encode(), mtime=0) + bytes(5),
        "\n" + TABLE.replace("\n", "\n,,\n \n", 2) + ",,\n\n",
        TABLE.replace("A,", " A ,"),
        f"# made by R, 2024\n\n{TABLE}",
        f"# by, hand\n#{TABLE}",
        "# a, b; and c, d\n" + TABLE.replace(",", "\t"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".txt.gz"])
def test_the_ways_of_other_programs_are_taken(write, text, suffix):
    """Also gzip without its suffix, and the suffix without gzip: the content decides."""
    assert content(read_expression(write(f"x{suffix}", text))) == (["A", "B", "C"], ["c1", "c2"], VALUES)


def test_the_separator_is_the_one_the_header_has_most_of(write):
    assert read_expression(write("x.csv", "g\tc,1\tc,2\nA\t1\t2\n")).obs_names.tolist() == ["c,1", "c,2"]


@pytest.mark.parametrize(
    ("entry", "value"),
    [(" 1 ", 1), ("+1", 1), (".5", 0.5), ("1.", 1), ("1E+02", 100), ("1e-400", 0), ('"2"', 2), (f"1{'0' * 30}", 1e30)],
)
def test_a_number_may_be_written_in_other_ways(write, entry, value):
    assert read_expression(write("x.csv", f"gene,c1\nA,{entry}\n")).X.tolist() == [[value]]


@pytest.mark.parametrize(
    ("text", "cells", "values"),
    [
        ("gene;c1\nA;1.234\n", ["c1"], [[1.234]]),  # a point between thousands
        ("c1,c2\nA,1,2\nB,3,4\n", ["c1", "c2"], [[1, 2], [3, 4]]),  # as R writes it, or a value too many
        (",0,1,2\nA,5,6,7\n", ["0", "1", "2"], [[5, 6, 7]]),  # names of pandas, or values without a header
        ("gene,c1\nA,1.", ["c1"], [[1]]),  # 1.25 cut off
        ("g,c1\nSpi1,1\nSPI1,2\n", ["c1"], [[1], [2]]),
    ],
)
def test_what_cannot_be_seen_is_taken_as_it_stands(write, text, cells, values):
    assert content(read_expression(write("x.csv", text)))[1:] == (cells, values)


@pytest.mark.parametrize("cells", ["c,c", "1,1", "0,0.5", "1,1.1", "nan,inf"])
def test_cells_may_be_called_anything(write, cells):
    """Time points, clusters, and what R makes of two clusters of one name."""
    assert content(read_expression(write("x.csv", f"gene,{cells}\nA,1,2\n"))) == (["A"], cells.split(","), [[1, 2]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["file is empty"]),
        ("\n \n", ["file is empty"]),
        (gzip.compress(b"", mtime=0), ["file is empty"]),
        (b"\x1f\x8b nonsense", ["expected a table in UTF-8"]),
        (b"PK\x03\x04\x14\x00\x06\x00", ["a NUL character", "save it as CSV in UTF-8"]),
        (b"BZh91AY&SY\xe2\x00", ["save it as CSV in UTF-8"]),
        ("g,c1,c2\nA,1,2\nB,1\n", ["gene 'B'", "column 'c2'", "got ''"]),
        ("g,c1,c2\n\nA,1,2\nB,1,2,3\n", ["Expected 3 fields in line 4, saw 4"]),
        ("g,c1\nA,1,2,3\n", ["expected 2 fields, saw 4"]),
        ("g,c1\nA,1\nB,2\nA,3\n", ["unique", "more than once: A;"]),
        ("g,c1\nA,1\n,2\n", ["gene 2 has none"]),
        ('gene,c1\n"A,1\nB",2\nC,3\n', ["must not contain a line break"]),
        ("g\nA\nB\n", ["2 genes and 0 cells", "tabs, commas or semicolons"]),
        ("g,c1,c2\n", ["0 genes and 2 cells"]),
        ("gene|c1\nA|1\n", ["between tabs, commas or semicolons"]),
        ('"c1" "c2"\n"A" 1 2\n', ["between tabs, commas or semicolons"]),
        ("g;c1;c2\nA;1,5;2\n", ["gene 'A'", "'1,5'", "write points for decimals and nothing between thousands"]),
        ("g,c1,c2\nA,1,5,2,5\n", ["expected 3 fields, saw 5"]),
        ("gene,c1\nA,1,2\nB,3,4\n", ["one field more", "write points for decimals"]),
        ("gene,c1,c2\nA,1,2,\n", ["does the line end with a separator?"]),
        ('gene,c1\n"A,1\nB,2\n', ["quotation mark"]),
        (f'gene,"{"c" * 200_000}\nA,1\n', ["quotation mark"]),
        ("A,1.5,2\nB,3,4\n", ["expected a header", "values of a gene, A"]),
        ("A,0,3,0\nB,1,0,0\n", ["expected a header"]),
        ("A,1\nB,3\n", ["expected a header", "values of a gene, A, 1;"]),
        ('gene,c1\nA,"1,234"\n', ["'1,234'; write points for decimals and nothing between thousands"]),
        ("gene,what,c1\nA,x,1\nB,y,2\n", ["got 'x'; if the column names the genes, say gene_column='what' (--gene-column)"]),
        ("Name,Length,EffectiveLength,TPM,NumReads\nA,9,8,1,2\n", ["1 genes and 0 cells below the header 'Name Length"]),
        (f"sep=,\n{TABLE}", ["sep="]),
        ("# a remark and nothing else\n", ["file is empty"]),
    ],
)
def test_what_is_wrong_with_a_table_is_said(write, text, words):
    path = write("x.csv", text)
    refused(lambda: read_expression(path), str(path), *words)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("Geneid\tLength\tc1\tc2\nA\t1421\t3\t0\nB\t1500\t9\t8\n", "Length"),
        (
            "Geneid\tChr\tStart\tEnd\tStrand\tc1\tc2\nA\t1;1\t5;9\t6;9\t+;+\t3\t0\nB\tX\t1\t4\t-\t9\t8\n",
            "Chr, Start, End, Strand",
        ),
        ("gene,c1,c2\nA,3,0\nB,9,8\n__no_feature,7,7\n__ambiguous,1,1\n", "__no_feature, __ambiguous"),
        ("gene,c1,c2\nN_unmapped,7,7\nN_noFeature,1,1\nA,3,0\nB,9,8\n", "N_unmapped, N_noFeature"),
        ("symbol,ENTREZID,Description,c1,c2\nA,7,a protein,3,0\nB,8,another,9,8\n", "ENTREZID, Description"),
        ("gene,Gene Length (bp),n_cells, c1 ,c2\nA,7,1,3,0\nB,8,2,9,8\n", r"Gene Length \(bp\), n_cells"),
    ],
)
def test_what_is_no_cell_and_no_gene_is_left_out_with_a_notice(write, text, left_out):
    path = write("x.txt", text)
    with pytest.warns(UserWarning, match=f"x.txt: left out, as no cells and no genes: {left_out}") as caught:
        assert content(read_expression(path)) == (["A", "B"], ["c1", "c2"], [[3, 0], [9, 8]])
    assert [warning.filename for warning in caught] == [__file__]


def test_a_table_may_name_its_genes_elsewhere_or_hold_cells_x_genes(write):
    path = write("x.csv", ",ensembl,name,c1\n0,E1,007,3\n1,E2,08,4\n")
    with pytest.warns(UserWarning, match="no genes: , ensembl"):
        assert content(read_expression(path, gene_column="name")) == (["007", "08"], ["c1"], [[3], [4]])
    refused(lambda: read_expression(path, gene_column="gene"), "x.csv: there is no gene_column", "ensembl, name, c1")
    path = write("x.csv", "cell,A,Start,N_unmapped,nCount_RNA,percent.mt\nc1,1,2,9,7,0.1\nc2,3,4,9,7,0.2\n")
    with pytest.warns(UserWarning, match="no genes: N_unmapped, nCount_RNA, percent.mt$"):
        assert content(read_expression(path, transpose=True)) == (["A", "Start"], ["c1", "c2"], [[1, 3], [2, 4]])
    refused(lambda: read_expression(path, layer="counts"), "x.csv: there is no layer 'counts'; layers: none; raw: no")


MISSING = ["", "NA", "nan", "#N/A", "inf", "-Infinity", "1e400"]
TEXT = ["1_000", "0x10", "TRUE", "1+2j", "1 000", "1d5", "#DIV/0!", "\u22121", "'1'", "1e", "high"]


@pytest.mark.parametrize("entry", MISSING + TEXT)
def test_what_is_no_finite_number_is_refused_with_its_place(write, entry):
    path = write("x.csv", f"gene,c1,c2\nA,1,2\nB,{entry},5\n")
    refused(lambda: read_expression(path), "gene 'B' in column 'c1' must be a finite number; got", "impute it, or drop")
    for other in ("3", "FALSE"):
        write("x.csv", f"gene,c1,c2\nA,2,{entry}\nB,5,{other}\n")
        refused(lambda: read_expression(path), "gene 'A' in column 'c2' must be a finite number; got")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("read", READERS)
def test_text_that_is_not_utf_8_is_refused(write, encoding, read):
    path = write("x.csv", TABLE.replace("A", "ä").encode(encoding))
    refused(lambda: read(path), "x.csv: expected a table in UTF-8", "save it as CSV in UTF-8")
    path = write("x.csv", f"{TABLE}D,1\0,2\n")
    refused(lambda: read(path), "a NUL character")


@pytest.mark.parametrize("name", ["x.xlsx", "x"])
def test_another_suffix_is_refused(write, name):
    refused(lambda: read_expression(write(name, TABLE)), "ends in one of .csv", "convert or rename")


@pytest.mark.parametrize("name", ["none.csv", "none.tsv.gz", "none.h5ad", "none.zarr"])
@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_named(tmp_path, name, read):
    refused(lambda: read(tmp_path / name), "No such file", name, error=FileNotFoundError)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv.gz", "x.h5ad"])
def test_a_folder_in_place_of_a_file_is_said(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(lambda: read_expression(tmp_path / name), name, "irectory", error=(IsADirectoryError, ValueError))


def test_a_gzip_file_that_is_cut_off_or_damaged_is_refused(write):
    whole = gzip.compress((TABLE + "".join(f"G{k},{k},{k * k}\n" for k in range(60))).encode(), mtime=0)
    for place in range(10, len(whole), 7):  # behind the header
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for text in (whole[:place], damaged):
            refused(lambda text=text: read_expression(write("x.csv.gz", text)), "x.csv.gz")


LETTERS = '\t,;\n\r "0123456789.eE+-_naifAß\0\ufeff'


def spelled_out(text):
    """A table without quotes, read in the plainest way: names and values."""
    lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    separator = max("\t,;", key=lines[0].count)
    rows = [line.split(separator) for line in lines[1:] if line.replace(separator, "")]
    return [row[0].strip() for row in rows], [[float(entry) for entry in row[1:]] for row in rows]


def stands_or_is_refused(path, text):
    path.write_bytes(text.encode())
    try:
        genes, cells, values = content(read_expression(path))
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert np.isfinite(values).all() and len(set(genes)) == len(genes) == len(values)
    assert len(values[0]) == len(cells)
    if '"' not in text:
        assert spelled_out(text.removeprefix("\ufeff")) == (genes, values)


EDIT = st.tuples(st.integers(0, len(TABLE)), st.integers(0, 4), st.text(LETTERS, max_size=4))


@given(edits=st.lists(EDIT, min_size=1, max_size=4))
@example(edits=[(20, 0, "\r")])
@example(edits=[(14, 3, "1_0")])
@example(edits=[(14, 3, "1\0")])
def test_an_altered_table_is_read_as_it_stands_or_refused(tmp_path_factory, edits):
    text = TABLE
    for place, length, new in edits:
        text = text[:place] + new + text[place + length :]
    stands_or_is_refused(tmp_path_factory.getbasetemp() / "altered.csv", text)


def test_a_table_that_is_cut_off_is_read_as_it_stands_or_refused(tmp_path):
    for cut in range(len(TABLE)):
        stands_or_is_refused(tmp_path / "x.csv", TABLE[:cut])


@given(content=st.binary(max_size=200) | st.binary(max_size=60).map(lambda content: b"\x1f\x8b\x08" + content))
@example(content=b"")
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    for read in READERS:
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)


# Networks

GENES = ["SPI1", "LYZ", "CD74", "NA"]


def pairs(path, genes=None):
    return [tuple(pair) for pair in read_network(path, genes=genes).table[["source", "target"]].to_numpy().tolist()]


@pytest.mark.parametrize("one", ["Gene1", "TF", "source", "regulator", "TF_gene", "from", "GENE1"])
@pytest.mark.parametrize("two", ["Gene2", "target", "Target_gene", "TO"])
def test_named_columns_are_found_wherever_they_are(write, one, two):
    header = f"{one},{two}"
    for genes in (None, GENES):
        assert pairs(write("e.csv", f"{header}\nSPI1,NA\n"), genes) == [("SPI1", "NA")]
        assert pairs(write("e.tsv", f"weight\t{two}\t{one}\n0.5\tNA\t SPI1 \n"), genes) == [("SPI1", "NA")]
        assert pairs(write("e.csv", f",{header}\n0,SPI1,NA\n,,\n"), genes) == [("SPI1", "NA")]
        assert pairs(write("e.txt", f"{one}\t{two}\n1\tSPI1\tNA\n"), genes) == [("SPI1", "NA")], "as R writes it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SPI1,LYZ\nSPI1,CD74\n", [("SPI1", "LYZ"), ("SPI1", "CD74")]),
        ("spi1,lyz\nSPI1,CD74\n", [("spi1", "lyz"), ("SPI1", "CD74")]),
        ("a,b\nSPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("SPI1,b\nSPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("a,b,weight\nSPI1,LYZ,0.3\n", [("SPI1", "LYZ")]),
        (",a,b\n0,SPI1,LYZ\n", [("SPI1", "LYZ")]),
        ("a;b\nSPI1;LYZ\n", [("SPI1", "LYZ")]),
        ("\ufeffSPI1\tLYZ\r\nLYZ\tNA\r\n", [("SPI1", "LYZ"), ("LYZ", "NA")]),
    ],
)
def test_else_the_first_two_columns_count_and_a_first_line_of_two_genes_is_no_header(write, text, expected):
    assert pairs(write("e.csv", text), GENES) == expected


def test_without_genes_an_unknown_first_line_is_an_edge(write):
    assert pairs(write("e.csv", "a,b\nSPI1,LYZ\n")) == [("a", "b"), ("SPI1", "LYZ")]
    assert pairs(write("e.csv", "LYZ,TF\nSPI1,LYZ\n")) == [("LYZ", "TF"), ("SPI1", "LYZ")]
    assert pairs(write("e.csv", "x,TF\nSPI1,LYZ\n")) == [("LYZ", "SPI1")]


TOOLS = {
    "BEELINE": ("Gene1,Gene2,Type\nSPI1,LYZ,+\nSPI1,NA,-\n", "SPI1 LYZ;SPI1 NA"),
    "BEELINE, ranked": ("Gene1\tGene2\tEdgeWeight\nSPI1\tLYZ\t0.9\nSPI1\tNA\t-0.5\n", "SPI1 LYZ 0.9;SPI1 NA -0.5"),
    "GRNBoost2": ("TF\ttarget\timportance\nSPI1\tLYZ\t41.5\nSPI1\tNA\t0.0\n", "SPI1 LYZ 41.5"),
    "GENIE3": ('"regulatoryGene","targetGene","weight"\n"1","SPI1","LYZ",0.4\n"2","SPI1","NA",0\n', "SPI1 LYZ 0.4"),
    "SCENIC+": ("Region\tGene\trho_R2G\tTF\timportance_TF2G\ttriplet_rank\nr1\tLYZ\t1\tSPI1\t0.2\t0\n", "SPI1 LYZ 0.2"),
    "CollecTRI": (",source,target,weight,resources\n0,SPI1,LYZ,1,A;B\n1,SPI1,NA,-1,A\n", "SPI1 LYZ 1.0;SPI1 NA -1.0"),
    "DoRothEA": ('"tf","confidence","target","mor"\n"SPI1","A","LYZ",1\n', "SPI1 LYZ 1.0"),
    "letters": ("source,confidence,target\nSPI1,A,LYZ\n", "SPI1 LYZ"),
    "OmniPath": ("source\ttarget\tsource_genesymbol\ttarget_genesymbol\nP1\tP2\tSPI1\tLYZ\n", "SPI1 LYZ"),
    "RegulonDB": ("## Release: 1,2\n##\n1)riId\t4)tfName\t7)regulatedName\t8)function\nR1\tSPI1\tLYZ\t+\n", "SPI1 LYZ"),
    "CellOracle": (
        ",peak_id,gene_short_name,SPI1,GATA1\n0,p1,LYZ,1.0,1.0\n1,p2,NA,1.0,0.0\n2,p3,LYZ,1,0\n",
        "SPI1 LYZ;GATA1 LYZ;SPI1 NA",
    ),
    "Inferelator": ("target\tregulator\tcombined_confidences\t1\nLYZ\tSPI1\t0.9\t1\nNA\tSPI1\t0.0\t\n", "SPI1 LYZ 0.9"),
    "DREAM": ("G1\tG2\t1\nSPI1\tLYZ\t1\nNA\tSPI1\t0\n", "G1 G2 1.0;SPI1 LYZ 1.0"),
    "R": ('"from"\t"to"\n"1"\t"SPI1"\t"LYZ"\n', "SPI1 LYZ"),
    "fusca": ("target,reg\nLYZ,SPI1\n", "SPI1 LYZ"),
    "gene, TF": ("gene,TF\nLYZ,SPI1\n", "SPI1 LYZ"),
    "TG, TF": ("TG,TF\nLYZ,SPI1\n", "SPI1 LYZ"),
    "#target, tf": ("#target\ttf\nLYZ\tSPI1\n", "SPI1 LYZ"),
    "# Target, TF; again": ("# v1, x\n# Target_Gene;Transcription-Factor\nLYZ;SPI1\n", "SPI1 LYZ"),
    "a remark": ("# made by R, 2024\tv1\tx\ntarget\ttf\nLYZ\tSPI1\n", "SPI1 LYZ"),
    "a remark with as many commas": ("# made by R, 2024\n\ntarget,tf\nLYZ,SPI1\n", "SPI1 LYZ"),
    "an edge left out, without a header": ("#SPI1,NA\nSPI1,LYZ\n", "SPI1 LYZ"),
    "a remark as wide as the header": ("#date,2024\nTarget,TF\nLYZ,SPI1\n", "SPI1 LYZ"),
    "R with commas": ('"TF","target","weight"\n"1","SPI1","LYZ",0.5\n', "SPI1 LYZ 0.5"),
    "a source that is a database": ("Gene1,Gene2,source\nSPI1,LYZ,ChIP\n", "SPI1 LYZ"),
    "a label between": ("Target.Gene\tlabel\tTF.name\nLYZ\t1\tSPI1\nNA\t0.0\tSPI1\n", "SPI1 LYZ"),
    "0 and 1 below any header": ("tf,target,is_true\nSPI1,LYZ,TRUE\nSPI1,NA,FALSE\n", "SPI1 LYZ 1.0"),
    "a header that says nothing of the third": ("tf,target,p\nSPI1,LYZ,0\nSPI1,NA,0.5\n", "SPI1 LYZ;SPI1 NA"),
    "plurals": ("Targets,Regulators\nLYZ,SPI1\n", "SPI1 LYZ"),
    "identifiers": ("target_id,tf_id,motif_name\nLYZ,SPI1,m\n", "SPI1 LYZ"),
    "symbols before identifiers": ("tf_id,target_symbol,tf,regulator_symbol\nE1,LYZ,x,SPI1\n", "SPI1 LYZ"),
    "the first of two columns": ("TF,TF,target\nSPI1,x,LYZ\n", "SPI1 LYZ"),
    "RegulonDB, new": ("1)regulatorId\t3)RegulatorGeneName\t5)regulatedName\tp\nR1\tSPI1\tLYZ\t0\n", "SPI1 LYZ"),
    "OmniPath, directed": ("source,target,is_directed,is_inhibition\nSPI1,LYZ,1,0\nSPI1,NA,0,0\n", "SPI1 LYZ"),
    "Pando": ("tf,target,estimate,pval\nSPI1,LYZ,-0.3,0\nSPI1,NA,0,1\n", "SPI1 LYZ -0.3"),
    "FigR": ("DORC,Motif,Score\nLYZ,SPI1,0.4\n", "SPI1 LYZ 0.4"),
    "ARACNE": ("Hub,Target,MI,pvalue\nSPI1,LYZ,0.3,0\n", "SPI1 LYZ 0.3"),
    "a p-value": ("tf,target,p.value\nSPI1,LYZ,0\nSPI1,NA,1\n", "SPI1 LYZ;SPI1 NA"),
    "words as value": ("tf,target,value\nSPI1,LYZ,high\n", "SPI1 LYZ"),
    "SIF, without a header": ("SPI1\tpd\tLYZ\nLYZ\tpd\tNA\n", "SPI1 LYZ;LYZ NA"),
    "RegNetwork, without a header": ("SPI1,6688,LYZ,4069\n", "SPI1 LYZ"),
    "TRRUST, without a header": ("SPI1\tLYZ\tActivation\t1;2\nLYZ\tNA\tUnknown\t3\n", "SPI1 LYZ;LYZ NA"),
    "numbers of pandas, without a header": (",0,1,2\n0,SPI1,LYZ,0.5\n1,SPI1,NA,0\n", "SPI1 LYZ 0.5"),
    "weights without a header": ("SPI1,LYZ,0.5\nSPI1,NA,0\n", "SPI1 LYZ 0.5"),
    "transferrin, without a header": ("LYZ,TF\nSPI1,LYZ\n", "LYZ TF;SPI1 LYZ"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_networks_of_other_tools_are_read(write, tool):
    text, expected = TOOLS[tool]
    path = write("e.txt", text)
    table, notices = read_network(path, genes=pd.Index(GENES))
    edges, is_guess = [table], any(word in tool for word in ("without", "DREAM", "0 and 1"))
    assert ("since no header says so" in str(notices)) == is_guess
    if tool not in ("R", "GENIE3") and "#" not in text and not is_guess:
        edges.append(read_network(pd.read_csv(path, sep=None, engine="python", keep_default_na=False)).table)
    for table in edges:
        assert table.to_csv(sep=" ", header=False, index=False, lineterminator=";") == f"{expected};"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("TF,Target,Label\nSPI1,NA,true\nSPI1,LYZ,false\n", {}, ["1 of 2 pairs have 0 in column 'Label' and are no edges"]),
        ("TF,Target,mor\nSPI1,LYZ,0\nSPI1,NA,-1\n", {}, ["1 of 2 pairs have 0 in column 'mor' and are no edges"]),
        ("SPI1,NA\n", {}, ["the regulator is read from column '1', the target is read from column '2', since no header"]),
        ("x,TF\nNA,SPI1\n", {}, ["the target is read from column 'x', since no header says so; if that is wrong, say reg"]),
        ("x,TF\nNA,SPI1\n", {"target": "X"}, []),
        ("SPI1,NA,0.5\n", {}, ["the weight is read from column '3', since no header"]),
        ("a,b,c\nNA,SPI1,9\nLYZ,SPI1,0\n", {"regulator": "b", "target": "a", "weight": "c"}, ["1 of 2 pairs have 0 in"]),
        ("TF,b,Target\nLYZ,SPI1,NA\n", {"regulator": "b"}, []),
        (
            "TF,Target,mor\nSPI1,NA,-2\nSPI1,LYZ,2\nLYZ,NA,-1\n",
            {"min_weight": 2},
            ["1 of 3 edges have an absolute weight below 2 and are left out"],
        ),
        ("TF,Target\n" + "".join(f"G{k},NA\n" for k in range(9)), {}, []),
        (
            "TF,Target\n" + "".join(f"G{k},NA\n" for k in range(10)),
            {},
            ["10 regulators of only 1 targets: if the columns are"],
        ),
        ("TF,Target\n" + "".join(f"G{k},{GENES[3 - k % 4]}\n" for k in range(12)), {}, []),
        ("TF,Target\n" + "".join(f"G{k},NA\n" for k in range(10)), {"target": "Target"}, []),
        (",peak_id,gene_short_name,SPI1\n0,p,NA,1\n", {}, ["CellOracle's 1 columns of regulators are melted"]),
    ],
)
def test_a_guess_and_what_is_left_out_are_said(write, text, options, expected):
    table, notices = read_network(write("e.csv", text), genes=GENES, **options)
    assert len(notices) == len(expected) and all(map(str.__contains__, notices, expected))
    assert table["target"].iloc[0] == "NA"


@pytest.mark.parametrize(
    "text",
    [
        ",SPI1,GATA1,LYZ\nSPI1,0,0,1\nGATA1,0,0,0\n",
        ",SPI1,LYZ\nSPI1,0,1\nLYZ,0,0\n",
        "LYZ\tNA\nSPI1\t0\t1.5\nGATA1\t-1\tNA\n",
        "gene,TF,TG,LYZ\nSPI1,TRUE,FALSE,TRUE\n",
        ",10,20\n10,0,1\n20,0,0\n",
    ],
)
def test_a_matrix_is_no_network(write, text):
    path = write("e.csv", text)
    for genes in (None, GENES):
        refused(lambda genes=genes: read_network(path, genes=genes), str(path), "got a matrix of", "melt", "regulator=")
    frame = pd.read_csv(path, sep=None, engine="python", index_col=0)
    refused(lambda: make_dataset(frame, frame), "edges: expected edges", "got a matrix of")


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_a_line_that_would_fill_the_memory_is_refused(write, lines, monkeypatch):
    monkeypatch.setattr("regnet.network._LONGEST_LINE", 1000)
    for line in (b"1," * 500, b"1" * 200_000):
        path = write(
            "x.csv.gz", gzip.compress(b"gene,c1\n" + b"A,1\n" * (lines - 1) + line) if lines else gzip.compress(line)
        )
        for read in READERS:
            refused(lambda read=read, path=path: read(path), str(path), "a line of 1000 characters")
    assert len(read_names(write("x.csv.gz", gzip.compress(b"1" * 999)))) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("TF\nSPI1\n", ["expected two columns", "'TF'"]),
        ("SPI1 LYZ\n", ["expected two columns", "'SPI1 LYZ'"]),
        ("TF,Target\n", ["at least one edge", "got 0 pairs"]),
        ("TF,Target,Label\nSPI1,LYZ,0\n", ["at least one edge", "got 1 pairs"]),
        ("TF,Target,Label\nSPI1,LYZ,2\n", ["Label of 1", "'2'"]),
        ("TF,Target,Label\nSPI1,LYZ,yes\n", ["'yes'"]),
        ("TF,Target,Label\nSPI1,LYZ\n", ["Label", "''"]),
        ("TF,Target,importance\nSPI1,LYZ,high\n", ["a finite number as importance", "'high' in 'SPI1 LYZ high'"]),
        ("TF,Target,weight,x\nSPI1,LYZ,,x\nSPI1,NA,inf,y\n", ["a finite number as weight", "'' in 'SPI1 LYZ  x'"]),
        ("TF,Target,mor\nSPI1,LYZ,inf\n", ["'inf'"]),
        ("a,b,c\nSPI1,LYZ,0\nSPI1,NA,0.0\n", ["at least one edge", "got 2 pairs; ", "2 of 2 pairs have 0"]),
        ("TF,Target\nSPI1,LYZ\nSPI1\n", ["a regulator and a target", "'SPI1 '"]),
        ("TF,Target\n,LYZ\n", ["a regulator and a target"]),
        ("SPI1,LYZ,CD74\nNA,LYZ,CD74\n", ["two names of genes a line; column 'CD74' has others; say regulator="]),
    ],
)
def test_what_is_wrong_with_a_network_is_said(write, text, words):
    path = write("e.csv", text)
    refused(lambda: read_network(path, genes=GENES), str(path), *words)


def test_an_unknown_column_and_a_threshold_without_weights_are_refused(write):
    path = write("e.csv", "TF,Target,x\nSPI1,LYZ,y\n")
    for options in ({"regulator": "tfs"}, {"target": "to"}, {"weight": "mor"}):
        (name,) = options.values()
        refused(lambda options=options: read_network(path, **options), f"no column {name!r}; the columns are TF, Target, x")
    refused(lambda: read_network(path, min_weight=1), "e.csv: min_weight needs weights", "TF, Target, x", "weight=")
    refused(lambda: read_network(path, weight="x"), "a finite number as x")


# Lists of names


@pytest.mark.parametrize(
    "text",
    [
        ",TF,index\n0,SPI1,0\n1,NA,1\n",
        "SPI1\nNA\n",
        "gene\tx\nSPI1\t1\nNA\t2\n",
        "\ufefftf\r\nSPI1\r\n NA \r\nSPI1\r\n",
        "target,reg\nLYZ,SPI1\nLYZ,NA\n",
        "# of 2024, by hand\nEnsembl ID\tHGNC symbol\nE1\tSPI1\nE2\tNA\n",
        '"","x"\n"1","SPI1"\n"2","NA"\n',
        "TFs\nSPI1\nNA\n",
        "HGNC symbol,Is TF?\nSPI1,Yes\nLYZ,No\nNA,Yes\n",
        "gene,is_tf\nSPI1,1\nLYZ, FALSE\nCD4,0\nNA,TRUE\n",
        "gene,is_tf\nSPI1,Y\nLYZ,N\nCD4,\nNA,y\n",
    ],
)
def test_names_come_from_the_column_of_regulators_or_genes_or_the_only_one(write, text):
    assert read_names(write("tfs.csv", text)) == ["SPI1", "NA"]


def test_columns_called_like_genes_are_no_header(write):
    """The first edge would be taken for the header, and be lost."""
    path = write("e.csv", "SPI1,LYZ\nSPI1,NA\n")
    named = {"regulator": "SPI1", "target": "LYZ"}
    refused(lambda: read_network(path, genes=GENES, **named), "expected the headers of columns; got the genes SPI1, LYZ")


def test_versions_of_ensembl_do_not_hide_an_edge_without_a_header(write):
    path = write("e.tsv", "ENSG00000000012.4\tENSG00000000007.1\nENSG00000000012.4\tENSG00000000009.1\n")
    assert len(read_network(path, genes=["ENSG00000000012", "ENSG00000000007", "ENSG00000000009"]).table) == 2


def test_weights_without_a_header_are_refused(write):
    path = write("w.csv", "SPI1,0.3\nLYZ,0.4\n")
    refused(lambda: read_weights(path, GENES), "expected a header, such as gene and weight; got the line 'SPI1 0.3'")


def test_a_list_without_names_is_refused(write):
    refused(lambda: read_names(write("tfs.csv", "TF\n")), "tfs.csv: expected names of genes")
    refused(lambda: read_names(write("tfs.csv", "gene,is_tf\nSPI1,maybe\n")), "expected yes or no as is_tf; got 'maybe'")
    refused(lambda: read_names(write("tfs.csv", "LYZ,SPI1\nNA,SPI1\n")), "tfs.csv: expected names", "1 lines of LYZ, SPI1")


@pytest.mark.parametrize(
    ("path", "name"), [("a/b.csv", "b"), ("b.x.TSV.gz", "b.x"), ("b.h5ad", "b"), ("b.zarr/", "b"), ("b.dat", "b.dat")]
)
def test_a_data_set_is_called_after_its_file(path, name):
    assert dataset_name(path) == name


# Matrices that stay on disk

X = np.arange(12, dtype=np.float32).reshape(4, 3) + 0.5
EDGES = [("G0", "G1")]


def named(count, letter):
    return pd.DataFrame(index=[f"{letter}{number}" for number in range(count)])


def opened(path, dtype=torch.float32):
    """A data set from a file whose matrix has the genes G0, G1, ..."""
    return make_dataset(read_expression(path), EDGES, dtype=dtype)


def in_blocks(data):
    return effective_weight_on_graph(torch.nn.Linear(2 * data.x.shape[1], 2), data.x, data.edge_index)


@pytest.fixture
def store(tmp_path):
    """Writes a matrix (cells x genes) with AnnData and returns the path."""

    def to(x, suffix=".h5ad", cells=None, genes=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names that are numbers, and on what AnnData will write one day
            table = anndata.AnnData(
                x, obs=named(4, "c") if cells is None else cells, var=named(3, "G") if genes is None else genes
            )
            if suffix == ".zarr":
                table.write_zarr(tmp_path / "x.zarr")
            else:
                table.write_h5ad(tmp_path / "x.h5ad")
                (tmp_path / "x.h5ad").rename(tmp_path / f"x{suffix}")
        return tmp_path / f"x{suffix}"

    return to


@pytest.mark.parametrize("suffix", [".h5ad", ".H5AD", ".zarr"])
@pytest.mark.parametrize("kind", [np.asarray, csr_matrix, csc_matrix], ids=lambda kind: kind.__name__)
def test_a_matrix_of_anndata_is_opened_without_reading_it(store, suffix, kind):
    adata = read_expression(store(kind(X), suffix))
    assert adata.shape == (4, 3) and adata.var_names.tolist() == ["G0", "G1", "G2"] and hasattr(adata.X, "dask")
    assert adata.obs_names.tolist() == ["c0", "c1", "c2", "c3"]
    data = opened(store(kind(X), suffix), dtype=torch.float64)
    assert data.x.shape == (3, 4) and to_memory(data).x.tolist() == X.T.tolist()
    assert in_blocks(opened(store(kind(X), suffix))).isnan().tolist() == [True, False, True]


def seurat_disk(file):
    for axis in ("obs", "var"):
        file[axis].attrs["encoding-version"] = "0.1.0"
    file["uns"].attrs["encoding-type"] = "unknown"
    del file["obsm"]
    file["obsm"] = h5py.SoftLink("/nowhere")


def anndata_07(file):
    """Dense without attributes, categories apart."""
    seurat_disk(file)
    del file["X"], file["var/symbol"]
    file["X"] = X
    file["var/__categories/symbol"] = ["S2", "S1", "S0"]
    file["var/symbol"] = np.array([2, 1, 0], dtype="i1")
    file["var/symbol"].attrs["categories"] = file["var/__categories/symbol"].ref


def other_names(file):
    """An index of another name, in ASCII, as R writes it, and missing symbols."""
    del file["var/_index"], file["var/symbol"]
    file["var/genes"] = np.array([b"G0", b"G1", b"G2"], dtype=h5py.string_dtype("ascii"))
    file["var"].attrs["_index"] = np.bytes_("genes")
    file["var/symbol"] = np.array([b"S0", b"S1", b"S2"])


@pytest.mark.parametrize("change", [seurat_disk, anndata_07, other_names])
@pytest.mark.parametrize("suffix", [".h5ad", ".H5"])
def test_only_the_matrix_and_the_names_are_read_as_any_version_wrote_them(store, change, suffix):
    genes = pd.DataFrame({"symbol": ["S0", "S1", "S2"]}, index=["G0", "G1", "G2"])
    path = store(csr_matrix(X), suffix, genes=genes)
    with h5py.File(path, "r+") as file:
        change(file)
    for options, letter in (({}, "G"), ({"gene_column": "symbol"}, "S")):
        got = read_expression(path, **options)
        assert got.var_names.tolist() == [f"{letter}{n}" for n in range(3)] and got.obs_names[3] == "c3"
        assert to_memory(make_dataset(got, [(f"{letter}0", f"{letter}1")])).x.tolist() == X.T.tolist()


@pytest.fixture
def many(tmp_path):
    """An AnnData with scaled X, two layers, raw with one gene more, and symbols, on disk."""

    def write(suffix=".h5ad", x=X - 5):
        genes = pd.DataFrame({"symbol": ["S0", None, "S2"]}, index=["G0", "G1", "G2"])
        adata = anndata.AnnData(x, obs=named(4, "c"), var=genes, layers={"counts": csr_matrix(2 * X), "z": X})
        adata.raw = anndata.AnnData(np.hstack([X, X[:, :1]]), obs=adata.obs, var=named(4, "R"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what AnnData will write one day
            (adata.write_zarr if suffix == ".zarr" else adata.write_h5ad)(tmp_path / f"x{suffix}")
        return tmp_path / f"x{suffix}"

    return write


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_the_matrix_is_chosen(many, store, suffix):
    path = many(suffix)
    counts, raw = read_expression(path, layer="counts"), read_expression(path, raw=True)
    assert counts.X.compute().toarray().tolist() == (2 * X).tolist() and counts.var_names[2] == "G2"
    assert raw.X[:, 3].compute().tolist() == X[:, 0].tolist() and raw.var_names[3] == "R3"
    turned = read_expression(path, layer="counts", transpose=True)
    assert turned.X.compute().toarray().tolist() == (2 * X).T.tolist() and turned.var_names[3] == "c3"
    others = "layers: counts, z; raw: yes; choose with layer=NAME (--layer NAME) or raw=True (--raw)"
    with pytest.warns(UserWarning, match=re.escape(f"x{suffix}: X has negative values, as scaled data have; {others}")):
        assert read_expression(path).X.compute().tolist() == (X - 5).tolist()
    for options, what in (({"layer": "Z"}, "layer 'Z'"), ({"layer": "z", "raw": True}, "layer 'z' in raw")):
        refused(lambda options=options: read_expression(path, **options), f"x{suffix}: there is no {what}; {others}")
    refused(lambda: read_expression(path, layer="z", gene_column="name"), "no gene_column", "'name'; columns: symbol")
    refused(lambda: read_expression(path, layer="z", gene_column="symbol"), "gene 2 has none")
    refused(lambda: read_expression(many(suffix, None)), f"x{suffix}: X is empty; {others}")
    assert (read_expression(store(X - 5)).X.compute() == X - 5).all(), "without a notice, for there is no other"


def cell_ranger(path, kind):
    """Counts (X as whole numbers) as Cell Ranger writes them: an .h5, or a folder as of version 2 or 3."""
    counts, genes, cells = csc_matrix(X.T.astype("i4")), ["E0", "E1", "E2"], [f"c{number}" for number in range(4)]
    columns = {"id": genes, "name": ["A", "B", "B"], "feature_type": ["Gene Expression"] * 3}
    if kind == ".h5":
        with h5py.File(path / "x.h5", "w") as file:
            for name in ("data", "indices", "indptr", "shape"):
                file[f"matrix/{name}"] = getattr(counts, name)
            file["matrix/barcodes"] = np.array(cells, dtype="S")
            for name, values in columns.items():
                file[f"matrix/features/{name}"] = np.array(values, dtype="S")
        return path / "x.h5"
    mmwrite(path / "matrix.mtx", counts)
    (path / "barcodes.tsv").write_text("\n".join(cells))
    lines = zip(*list(columns.values())[:kind], strict=True)
    (path / ("genes.tsv" if kind == 2 else "features.tsv")).write_text("\n".join(map("\t".join, lines)))
    for file in list(path.iterdir()) if kind == 3 else ():
        (path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return path


@pytest.mark.parametrize("kind", [2, 3, ".h5"])
def test_10x_is_read_by_its_identifiers_where_symbols_repeat(tmp_path, kind):
    refused(lambda: read_expression(tmp_path), "cannot be read as a directory of 10x Genomics: ", "matrix.mtx")
    path = cell_ranger(tmp_path, kind)
    got = read_expression(path, gene_column="gene_ids")
    assert (got.var_names[2], got.obs_names[3], got.X.toarray().tolist()) == ("E2", "c3", X.astype(int).tolist())
    refused(lambda: read_expression(path), "more than once: B;", 'gene_column="gene_ids" (--gene-column gene_ids)')
    refused(lambda: read_expression(path, raw=True), f"{path}: there is no raw; layers: none; raw: no")
    assert read_expression(path, transpose=True).shape == (3, 4)


def test_blanks_around_names_are_left_out(store):
    path = store(X, genes=pd.DataFrame(index=["SPI1 ", " LYZ", "CD4"]))
    assert read_expression(path).var_names.tolist() == ["SPI1", "LYZ", "CD4"]


@pytest.mark.parametrize("names", [["A", "B", "A"], ["A", "", "B"]])
def test_genes_without_a_name_of_their_own_are_refused(store, names):
    path = store(X, genes=pd.DataFrame(index=names))
    refused(lambda: read_expression(path), "x.h5ad", "more than once: A" if "" not in names else "gene 2 has none")


def test_another_number_of_genes_than_names_is_refused(store):
    path = store(X)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = X[:, :2]
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    refused(lambda: read_expression(path), "x.h5ad", "2")


def test_entries_that_are_no_real_numbers_are_refused(store, tmp_path):
    refused(lambda: read_expression(store(X.astype(np.complex64))), "x.h5ad", "complex64", "not real numbers")
    zarr.save(str(tmp_path / "plain.zarr"), X)
    refused(lambda: read_expression(tmp_path / "plain.zarr"), "plain.zarr: it is an array without names")


@pytest.mark.parametrize("kind", [int, bool, np.float16])
def test_other_kinds_of_numbers_on_disk_are_taken(store, kind):
    assert to_memory(opened(store(X.astype(kind)))).x.tolist() == X.astype(kind).T.astype(float).tolist()


@pytest.mark.parametrize(
    "write_other",
    [
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n and then nothing"),
        lambda path: h5py.File(path, "w").create_dataset("X", data=X).file.close(),
        lambda path: h5py.File(path, "w").create_dataset("matrix", data=X).file.close(),
    ],
    ids=["damaged", "no names", "another program's"],
)
def test_another_hdf5_file_is_refused(tmp_path, write_other):
    write_other(tmp_path / "x.h5ad")
    refused(lambda: read_expression(tmp_path / "x.h5ad"), "x.h5ad cannot be read as .h5ad", "check the download")


def test_an_h5ad_that_is_cut_off_is_refused_wherever(store):
    path = store(X)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 977):
        path.write_bytes(whole[:cut])
        refused(lambda: read_expression(path), "x.h5ad cannot be read as .h5ad", "check the download")


@pytest.mark.parametrize(("kind", "index"), [(csr_matrix, 3), (csc_matrix, 4), (csr_matrix, -1), (csr_matrix, 2**30)])
@pytest.mark.parametrize("use", [to_memory, in_blocks])
def test_a_damaged_index_of_a_sparse_matrix_is_refused_and_no_crash(store, use, kind, index):
    path = store(kind(X))
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = index
    refused(lambda: use(opened(path)), "the matrix on disk cannot be read (", "ind", "download it again")


@pytest.mark.parametrize("use", [to_memory, in_blocks])
def test_a_block_of_zarr_that_is_cut_off_is_refused_and_one_that_is_missing_is_zeros(store, use):
    path = store(np.tile(X, (100, 1)), ".zarr", cells=named(400, "c"))
    block = path / "X" / "0.0"
    block.write_bytes(block.read_bytes()[:-40])
    refused(lambda: use(opened(path)), "the matrix on disk cannot be read (", "download it again")
    block.unlink()
    assert (to_memory(opened(path)).x == 0).all()


def test_a_tensor_stays_as_it_is(tiny_data):
    assert to_memory(tiny_data) is tiny_data


@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated", "ignore::DeprecationWarning")  # of loompy
def test_loom_is_read_where_loompy_is_installed(tmp_path, monkeypatch):
    path = tmp_path / "x.LOOM"
    with h5py.File(path, "w") as file:
        file["matrix"], file["layers/spliced"] = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
        for name, values in {"row_attrs/Gene": "AB", "row_attrs/Accession": "EF", "col_attrs/CellID": "xyz"}.items():
            file[name] = np.array(list(values), dtype="S")
        for name in ("row_graphs", "col_graphs", "attrs"):
            file.create_group(name)
    adata = read_expression(path)
    assert [*adata.var_names] == ["A", "B"] and [*adata.obs_names] == ["x", "y", "z"] and adata.X.toarray()[2, 1] == 5
    adata = read_expression(path, layer="spliced", gene_column="Accession")
    assert [*adata.var_names] == ["E", "F"] and (adata.X.toarray() == 1).all()
    refused(lambda: read_expression(path, layer="no"), "no layer 'no'; layers: spliced")
    monkeypatch.setitem(sys.modules, "loompy", None)
    refused(lambda: read_expression(path), "pip install loompy")
