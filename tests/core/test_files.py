"""Files are whole or not there, whatever happens in the middle of writing them."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import pickle
import signal
import time

import pytest
import safetensors
import torch

from isogrid.core.errors import InputError, StorageError
from isogrid.core.files import (
    canonical,
    digest,
    load_tensors,
    read_json,
    replacing,
    replacing_folder,
    save_tensors,
    write_json,
    write_text,
)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def _write_slowly(path):
    with replacing(path) as temporary, temporary.open("w") as file:
        for _ in range(10000):
            file.write("new\n" * 1000)
            file.flush()
            time.sleep(0.002)


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old\n")
    writer = multiprocessing.get_context("spawn").Process(target=_write_slowly, args=(path,))
    writer.start()
    deadline = time.monotonic() + 60
    while not any(entry.stat().st_size > 10000 for entry in tmp_path.iterdir() if entry != path):
        assert time.monotonic() < deadline, "the writer never started"
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert path.read_text() == "old\n"


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old\n")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_text() == "old\n"
    assert leftovers(tmp_path) == []


def test_success_replaces_and_leaves_no_other(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    write_text(path, "a\n")
    write_text(path, "b\n")
    assert path.read_bytes() == b"b\n"
    assert leftovers(path.parent) == []
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask, "the permissions are not those of an ordinary new file"


def test_folders_appear_whole_and_the_first_one_stays(tmp_path):
    path = tmp_path / "cell"

    def interrupted():
        with replacing_folder(path) as temporary:
            (temporary / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert not path.exists()
    for text in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / "a").write_text(text)
            assert not path.exists() or (path / "a").read_text() == "first"
    assert (path / "a").read_text() == "first"
    assert leftovers(tmp_path) == []


ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.EFBIG, errno.ESTALE]


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize(
    "step", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.rename", "tempfile.mkstemp", "tempfile.mkdtemp", "block"]
)
def test_whatever_the_disk_says_is_one_line_with_what_to_do(tmp_path, monkeypatch, code, step):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    if step != "block":
        monkeypatch.setattr(step, refuse)
    raised = 0
    for write, name in ((replacing, "file.json"), (replacing_folder, "cell")):
        try:
            with write(tmp_path / name) as temporary:
                (temporary if write is replacing else temporary / "part").write_text("new")
                if step == "block":
                    refuse()
        except StorageError as error:
            raised += 1
            line = str(error)
        else:
            continue
        assert line.startswith(f"{tmp_path / name}: {os.strerror(code)}: ")
        assert line.endswith(", then the same command goes on")
        assert "\n" not in line
        assert not (tmp_path / name).exists()
    assert raised == {"block": 2}.get(step, 1)
    assert leftovers(tmp_path) == []
    assert str(pickle.loads(pickle.dumps(StorageError(OSError(code, "x"), "p")))) == str(StorageError(OSError(code, "x"), "p"))  # noqa: S301


def test_a_full_disk_while_tensors_are_written_is_told_alike(tmp_path, monkeypatch):
    def full(*_, **__):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="No space left on device: free some space"):
        save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1)})


def test_json_has_one_form(tmp_path):
    assert canonical({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(digest([])) == 16
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError):
            canonical({"x": bad})
        with pytest.raises(ValueError):
            write_json(tmp_path / "bad.json", {"x": bad})
    write_json(tmp_path / "a.json", {"x": [1, "é"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, "é"]}
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, "é"]}
    assert not (tmp_path / "bad.json").exists()


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "a": base,
        "transposed": base.T,
        "shares": base[:2],
        "mask": base > 0,
        "ids": torch.arange(3),
        "nan": torch.tensor([math.nan]),
    }
    save_tensors(path, tensors, {"level": "3"})
    loaded = load_tensors(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(7), tensor.nan_to_num(7))


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="weights"):
        load_tensors(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="existing"):
        load_tensors(tmp_path / "none.safetensors", "masks")


@pytest.mark.parametrize("metadata", [None, {}, {"level": "3"}])
def test_no_tensors_at_all_come_back_as_none(metadata, tmp_path):
    save_tensors(tmp_path / "state.safetensors", {}, metadata)
    assert load_tensors(tmp_path / "state.safetensors") == {}
