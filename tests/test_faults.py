"""What goes wrong outside the program: kills, full and read-only disks, two runs at once."""

from __future__ import annotations

import errno
import json
import os
import pydoc
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from examples import assert_error, assert_last_line
from PIL import Image

from regnet import RegNet, training
from regnet.checkpoint import load_layers
from regnet.report import REPORT_FILES
from regnet.writing import output_lock

EPOCHS = 20

# The command line in a process that can be killed. Importing takes seconds, so one process imports, and forks one child for
# each command that it reads; a child writes down every epoch that it has trained, before it is kept.
FORKS = """
import ctypes, json, os, resource, signal, sys, time
from pathlib import Path
import torch
import regnet.blockwise, regnet.report
from regnet import training
from regnet.cli import app
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have begun with it ignored
keep = training._keep

def noting(path, settings, state, *rest):
    os.write(notes, b"%d\\n" % state["epochs"])
    keep(path, settings, state, *rest)

training.VALIDATE_EVERY = 1  # and so is kept every epoch

training._keep = noting
move = Path.replace

def slowly(path, place):  # so that a kill can come while a file is half written, and between two files of a report
    time.sleep(0.01 if place.suffix == ".ckpt" else 0.03)
    return move(path, place)

Path.replace = slowly
while line := sys.stdin.readline():
    arguments, notes_path, errors_path, file_size, powerless = json.loads(line)
    child = os.fork()
    if not child:
        sys.stdin.close()
        notes = os.open(notes_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        if file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        if powerless:  # root, too, then needs permissions
            ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)())
        try:
            app(arguments)
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(99)
    print("started", child, flush=True)
    sys.stdin.readline()  # until then the child's number stays its own, also where it has ended
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs commands, kills them, and says how many epochs each has trained."""

    def __init__(self, process, folder):
        self.process = process
        self.notes, self.errors = folder / "epochs", folder / "errors"

    def run(self, *arguments, until=lambda: None, number=0, file_size=0, powerless=False):
        """The exit code of a command, to which a signal is sent at a moment; 0 sends none.

        Files may be limited to a number of bytes, and root's powers taken away.
        """
        command = list(map(str, arguments)), str(self.notes), str(self.errors), file_size, powerless
        child = self.ask(command, "started")
        try:
            until()
        finally:
            os.kill(child, number)
            code = self.ask(None, "ended")
        return code

    def ask(self, question, expected):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        word, value = self.process.stdout.readline().split()
        assert word == expected
        return int(value)

    def trained(self):
        lines = self.notes.read_text().split() if self.notes.is_file() else []
        return int(lines[-1]) if lines else 0


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    process = subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Forks(process, tmp_path_factory.mktemp("forks"))
    process.stdin.close()
    process.stdout.close()
    assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """Options that name an expression and a network of one's own."""
    folder = tmp_path_factory.mktemp("own")
    generator = torch.Generator().manual_seed(7)
    genes = [f"G{gene}" for gene in range(40)]
    x = torch.randn(40, 12, dtype=torch.float64, generator=generator)
    pd.DataFrame(x.numpy(), index=genes).to_csv(folder / "x.csv")
    pairs = [(f"G{tf}", f"G{4 + target}") for tf in range(4) for target in torch.randperm(36, generator=generator)[:14]]
    pd.DataFrame(pairs, columns=["TF", "Target"]).to_csv(folder / "edges.csv", index=False)
    return ["--expression", str(folder / "x.csv"), "--edges", str(folder / "edges.csv")]


@pytest.fixture(scope="module")
def uninterrupted(forks, own_files, tmp_path_factory):
    """The files of a training that nobody killed, and how many seconds it took."""
    out = tmp_path_factory.mktemp("uninterrupted") / "o"
    times = []
    command = ["pretrain", *own_files, "--epochs", EPOCHS, "--out", out]
    assert forks.run(*command, until=lambda: times.append(time.monotonic())) == 0
    return contents(out), time.monotonic() - times[0]


def contents(folder):
    """Path below the folder -> bytes of every file, None of every empty folder."""
    found = {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
    return {str(path.relative_to(folder)): content for path, content in found.items() if content or not any(path.glob("*"))}


READERS = {
    ".ckpt": lambda file: torch.load(file, weights_only=True),
    ".pth": load_layers,
    ".json": lambda file: json.loads(file.read_text()),
    ".csv": pd.read_csv,
    ".png": lambda file: Image.open(file).load(),
}


def unfinished(out):
    """What a kill has left half written; every other file must be whole and readable."""
    left = [file for file in out.rglob("*") if file.suffix == ".unfinished"]
    for file in out.rglob("*.*"):
        if not file.name.startswith("."):
            READERS[file.suffix](file)
    return left


def kept_epochs(out):
    """How many epochs the output folder keeps: those of the interrupted training, or all of the finished one."""
    kept = out / "training" / "last.ckpt"
    if kept.is_file():
        return torch.load(kept, weights_only=True)["epochs"]
    return json.loads((out / "metrics.json").read_text())["epochs"] if (out / "metrics.json").is_file() else 0


def at_a_random_moment(out, seconds, rng):
    time.sleep(rng.uniform(0, seconds))


def while_the_training_is_kept(out, seconds, rng):
    wait_for(lambda: (out / "training" / ".last.ckpt.unfinished").exists(), rng.uniform(0, seconds), limit=2 * seconds)


def while_the_report_is_written(out, seconds, rng):
    wait_for(lambda: any(out.glob(".*.unfinished")), limit=2 * seconds)
    time.sleep(rng.uniform(0, 0.2))


def wait_for(condition, not_before=0.0, limit=60.0):
    start = time.monotonic()
    while time.monotonic() - start < limit and (time.monotonic() - start < not_before or not condition()):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number", "aim"),
    [
        (at_a_random_moment, 4, "training"),
        (while_the_training_is_kept, 3, "state"),
        (while_the_report_is_written, 3, "report"),
    ],
)
def test_a_killed_training_loses_at_most_one_epoch_and_no_file(
    moment, number, aim, forks, own_files, uninterrupted, tmp_path
):
    expected, seconds = uninterrupted
    rng = random.Random(20240607)
    out = tmp_path / "o"
    arguments = ["pretrain", *own_files, "--epochs", EPOCHS, "--out", out, "--resume"]
    kills = Counter()
    kept = 0
    for _ in range(10 * number):
        code = forks.run(*arguments, until=lambda: moment(out, seconds, rng), number=signal.SIGKILL)
        left = unfinished(out) if out.exists() else []
        before, kept = kept, kept_epochs(out)
        assert kept >= before and kept >= forks.trained() - 1, "more than one epoch is lost"
        if code:
            assert code == -signal.SIGKILL
            reported = any(file.parent == out for file in left)
            kills["report" if reported else "state" if left else "training" if kept else "before"] += 1
        if kept == EPOCHS or kills.total() == number:
            assert forks.run(*arguments) == 0
            assert contents(out) == expected, "the same as without an interruption, byte for byte, and nothing else"
            shutil.rmtree(out)
            kept = 0
        if kills.total() == number:
            break
    assert kills.total() == number
    assert kills[aim] >= 1, "kills must hit what they aim at for the test to mean anything"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_training_is_reported_with_how_to_go_on(number, code, forks, own_files, uninterrupted, tmp_path):
    expected, _ = uninterrupted
    command = ["pretrain", *own_files, "--epochs", EPOCHS, "--out", tmp_path / "o"]
    forks.notes.unlink(missing_ok=True)
    assert forks.run(*command, until=lambda: wait_for(lambda: forks.trained() >= 3), number=number) == code
    assert forks.errors.read_text().splitlines()[-1] == "Stopped; the same command with --resume goes on"
    assert 2 <= kept_epochs(tmp_path / "o") < EPOCHS
    assert forks.run(*command, "--resume") == 0
    assert contents(tmp_path / "o") == expected


def test_a_run_killed_before_its_first_epoch_is_not_taken_for_the_finished_one_that_it_replaces(run, own_files, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    command = ["pretrain", *own_files, "--epochs", "2", "--out", "o"]
    assert run(*command, "--seed", "1").exit_code == 0
    old = contents(Path("o"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "_loss", interrupt)
        stopped = run(*command, "--force")
    assert stopped.exit_code == 130 and "the same command with --resume in place of --force goes on" in stopped.stderr
    kept = contents(Path("o"))
    assert kept.pop("training/last.ckpt") and kept == old
    assert run(*command, "--resume").exit_code == 0
    assert contents(Path("o")).keys() == set(REPORT_FILES)
    assert json.loads(Path("o/metrics.json").read_text())["seed"] == 0


# full and read-only disks


@pytest.fixture
def trained(tmp_path):
    """Options of `shrinkage` that name a model of the width of one's own files."""
    torch.manual_seed(0)
    torch.save(RegNet(12, 8, 4).state_dict(), tmp_path / "m.pth")
    return ["--checkpoint", str(tmp_path / "m.pth")]


FULL_AT = {
    "the lock": ("regnet.writing.FileLock.acquire", 0),
    "the state at the start": ("regnet.writing._write", 0),
    "the state of an epoch": ("regnet.writing._write", 2),
    "the first output": ("regnet.writing._write", 4),
    "the last output": ("regnet.writing._write", 12),
}


def fill_the_disk(monkeypatch, name, calls):
    """Let a function leave half a file and meet a full disk, after some calls that succeed."""
    original, done = pydoc.locate(name), []

    def failing(*args, **kwargs):
        done.append(name)
        if len(done) <= calls:
            return original(*args, **kwargs)
        if isinstance(args[0], Path):
            original(args[0], b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(name, failing)


@pytest.mark.parametrize("place", FULL_AT)
def test_a_full_disk_during_a_training_leaves_the_old_files_and_what_was_kept(place, run, own_files, monkeypatch):
    command = ["pretrain", *own_files, "--epochs", "3", "--out", "o"]
    assert run(*command, "--seed", "1").exit_code == 0
    old = contents(Path("o"))
    monkeypatch.setattr("regnet.training.VALIDATE_EVERY", 1)
    with monkeypatch.context() as patch:
        fill_the_disk(patch, *FULL_AT[place])
        result = run(*command, "--force")
    left = contents(Path("o"))
    kept = left.pop("training/last.ckpt", None)
    assert left == old, "old outputs as they were, and nothing half written"
    assert_error(result, "cannot write to o", "(No space left on device); make room there", "another folder (--out)")
    if place in ("the lock", "the state at the start"):
        assert kept is None and not Path("o/training").exists() and "--resume" not in result.stderr
    else:
        assert_error(result, "then the same command with --resume in place of --force goes on")
        assert run(*command, "--resume").exit_code == 0
        assert contents(Path("o")).keys() == set(REPORT_FILES)
        assert json.loads(Path("o/metrics.json").read_text())["seed"] == 0


@pytest.mark.parametrize(("command", "size"), [("pretrain", 3_000), ("shrinkage", 12_000)])
def test_a_real_write_that_fails_leaves_the_old_files(command, size, forks, own_files, trained, tmp_path):
    """Files may not grow beyond a size: the state of the training and a figure then fail half-way."""
    out = tmp_path / "o"
    options = [*own_files, "--out", out, *(["--epochs", 2] if command == "pretrain" else trained)]
    assert forks.run(command, *options) == 0
    old = contents(out)
    assert max(map(len, old.values())) > 12_000
    assert forks.run(command, *options, "--force", file_size=size) == 1
    assert_last_line(forks.errors.read_text(), f"cannot write to {out}", "(File too large); make room there")
    assert contents(out) == old


@pytest.mark.skipif(sys.platform != "linux", reason="root's powers are taken away by a call of Linux")
@pytest.mark.parametrize("command", ["pretrain", "shrinkage"])
def test_a_read_only_folder_is_an_error_and_left_alone(command, forks, own_files, trained, tmp_path):
    out = tmp_path / "o"
    options = [*own_files, *(["--epochs", 2] if command == "pretrain" else trained)]
    assert forks.run(command, *options, "--out", out) == 0
    old = contents(out)
    forks.notes.unlink()
    out.chmod(0o555)
    try:
        for folder in (out, out / "new"):
            assert forks.run(command, *options, "--out", folder, "--force", powerless=True) == 1
            assert_last_line(forks.errors.read_text(), f"cannot write to {folder} (Permission denied); make room there or")
            assert forks.trained() == 0, "it is found before the training"
    finally:
        out.chmod(0o755)
    assert contents(out) == old


# two runs at once


def test_a_second_run_into_one_folder_is_refused_and_the_first_goes_on(
    forks, own_files, trained, uninterrupted, run, tmp_path
):
    expected, _ = uninterrupted
    out = tmp_path / "o"
    others = []

    def start_others():
        wait_for(lambda: (out / "training" / "last.ckpt").exists())
        for command in (["pretrain", "--force"], ["pretrain", "--resume"]):
            others.append(run(*command, *own_files, "--epochs", EPOCHS, "--out", out))

    first = forks.run("pretrain", *own_files, "--epochs", EPOCHS, "--out", out, until=start_others)
    assert first == 0 and contents(out) == expected
    with output_lock(out):
        others.append(run("shrinkage", *own_files, *trained, "--out", out, "--force"))
    assert contents(out) == expected
    assert len(others) == 3
    for other in others:
        assert_error(other, f"another run is writing to {out}; wait until it has ended, or give another folder (--out)")


def test_a_folder_in_the_place_of_an_output_is_found_before_the_first_is_replaced(run, own_files, trained, tmp_path):
    command = ["shrinkage", *own_files, *trained, "--out", "o"]
    assert run(*command, "--layer-name", "graphsage.layers.1.agg").exit_code == 0
    Path("o/shrinkage_vs_expr.png").unlink()
    Path("o/shrinkage_vs_expr.png").mkdir()
    old = contents(Path("o"))
    assert_error(run(*command), "o holds shrinkage.csv of an earlier run", "--force")
    assert_error(run(*command, "--force"), "cannot write to o (shrinkage_vs_expr.png is a folder)")
    assert contents(Path("o")) == old
