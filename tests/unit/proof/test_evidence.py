import gzip
import json
from pathlib import Path

import pytest

from benchmarks.load.told import Call, Story, Told
from flashsale.proof.evidence import EvidenceError, read_told


def write(path: Path) -> Path:
    with Told(path, sku="shoe", seed=1, shoppers=1) as told:
        heard = Call("buy", "k" * 16, [("shoe", 2)], 0, 1.0, 2.0, 201, "held", "p", "HELD", [("shoe", 2, 7)])
        told.add(Story("ana", "buys", 1.0, [Call("buy", "k" * 16, [("shoe", 2)], 0, 0.5, why="time-out"), heard]))
    return path


def test_what_the_shoppers_write_the_auditor_reads(tmp_path: Path) -> None:
    silent, heard = read_told(write(tmp_path / "told.gz"))
    assert (silent.buyer, silent.answered, silent.shows_purchase) == ("ana", None, False)
    assert (heard.asked, heard.lines, heard.shows_purchase) == ((("shoe", 2),), (("shoe", 2, 7),), True)
    assert heard.answered is not None
    assert heard.answered - silent.sent == pytest.approx(1.5)


def test_a_file_that_was_cut_off_proves_nothing(tmp_path: Path) -> None:
    whole = write(tmp_path / "told.gz")
    lines = gzip.decompress(whole.read_bytes()).splitlines(keepends=True)
    for cut in (lines[:-1], lines[:1], [*lines[:-1], json.dumps({"end": 9}).encode()], [b"no json"], []):
        (tmp_path / "cut.gz").write_bytes(gzip.compress(b"".join(cut)))
        with pytest.raises(EvidenceError):
            read_told(tmp_path / "cut.gz")
    (tmp_path / "cut.gz").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(EvidenceError):
        read_told(tmp_path / "cut.gz")
    with pytest.raises(EvidenceError):
        read_told(tmp_path / "nowhere.gz")
