"""What lies in a run's directory and is not in its manifest: whose it is, and what is done with it, is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, finetune
from zofo.api.check_run import check_run
from zofo.train.run_dir import RunDir

STAYS = "nothing of it is deleted, by --overwrite neither: move it away, or choose another directory"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """Two runs of eight steps, with checkpoints at 4 and 8, in run/ and other/."""
    root = tmp_path_factory.mktemp("ownership")
    path = write_rows(root / "rows.jsonl", sentiment_rows(40))
    for out in ("run", "other"):
        finetune(str(tiny_model_dir), str(path), "mezo", output_dir=root / out, **SMALL)
    return root


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture
def again(made: Path, tiny_model_dir: Path) -> Callable[..., Any]:
    def train(out: Path, **options: Any) -> Any:
        return finetune(str(tiny_model_dir), str(made / "rows.jsonl"), "mezo", output_dir=out, **{**SMALL, **options})

    return train


def copied(out: Path, made: Path) -> None:
    shutil.copytree(out / "checkpoint-8", out / "checkpoint-60")


def renamed(out: Path, made: Path) -> None:
    (out / "checkpoint-4").rename(out / "checkpoint-60")


def of_another_run(out: Path, made: Path) -> None:
    shutil.copytree(made / "other" / "checkpoint-8", out / "checkpoint-60")


def of_another_trainer(out: Path, made: Path) -> None:
    (out / "checkpoint-60").mkdir()
    (out / "checkpoint-60" / "trainer_state.json").write_text('{"global_step": 60}')


def a_best(out: Path, made: Path) -> None:
    shutil.copytree(next((made / "other").glob("best-*")), out / "best-60")


def a_link(out: Path, made: Path) -> None:
    (out / "checkpoint-60").symlink_to(made / "other" / "checkpoint-8")


KINDS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a copy": (copied, "checkpoint-60 (this run's checkpoint-8, copied or renamed)"),
    "another name": (renamed, "checkpoint-60 (this run's checkpoint-4, copied or renamed)"),
    "another run's": (of_another_run, "checkpoint-60 (a checkpoint of another run of zofo, of step 8)"),
    "another trainer's": (of_another_trainer, "checkpoint-60 (not zofo's)"),
    "a best": (a_best, "best-60 (a best of zofo, of which run is not known)"),
    "a link": (a_link, "checkpoint-60 (not zofo's)"),
}


@pytest.mark.parametrize("what", KINDS)
def test_whose_it_is_and_that_it_stays(what: str, out: Path, made: Path, again: Callable[..., Any]) -> None:
    put, words = KINDS[what]
    put(out, made)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for overwrite in (True, False):
        with pytest.raises(InputError) as caught:
            again(out, overwrite=overwrite)
        assert str(caught.value) == f"train.output_dir: {out} holds, where a run would write, {words}; {STAYS}"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_in_a_directory_without_a_run(made: Path, tmp_path: Path, again: Callable[..., Any]) -> None:
    (tmp_path / "out").mkdir()
    of_another_run(tmp_path / "out", made)
    with pytest.raises(InputError, match=r"another run of zofo, of step 8\); nothing of it"):
        again(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-60" / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"of zofo, of step 8, of which run is not known\)"):
        again(tmp_path / "out")


@pytest.mark.parametrize(
    ("comes", "whose"),
    [
        (copied, "this run's checkpoint-8, copied or renamed"),
        (of_another_run, "a checkpoint of another run of zofo, of step 8"),
    ],
)
def test_a_resume_says_whose_is_in_its_way(
    comes: Callable[[Path, Path], None], whose: str, out: Path, made: Path, again: Callable[..., Any]
) -> None:
    comes(out, made)
    with pytest.raises(InputError, match=rf"checkpoint-60 is {whose}, and the run would overwrite it; move it away"):
        again(out, resume=str(out / "checkpoint-8"), max_steps=70)
    assert (out / "checkpoint-60").is_dir()


def test_many_are_counted(out: Path, made: Path, again: Callable[..., Any]) -> None:
    for number in range(60, 66):
        shutil.copytree(out / "checkpoint-8", out / f"checkpoint-{number}")
    with pytest.raises(InputError, match=r"checkpoint-62 \(this run.s checkpoint-8, .*\) and 3 more; no"):
        again(out, overwrite=True)


def test_what_cannot_be_mixed_up_stays_beside_a_run(out: Path, again: Callable[..., Any], caplog: Any) -> None:
    """Notes in a directory that is called like a checkpoint: a run takes place, and says what it left."""
    (out / "checkpoint-60").mkdir()
    (out / "checkpoint-60" / "notes.txt").write_text("mine")
    again(out, overwrite=True)
    assert f"{out}: not the run's, and left there: checkpoint-60/" in caplog.text
    assert (out / "checkpoint-60" / "notes.txt").read_text() == "mine"


def test_moved_back_or_away_all_is_well(out: Path, made: Path, again: Callable[..., Any]) -> None:
    renamed(out, made)
    copied(out, made) if not (out / "checkpoint-60").exists() else shutil.copytree(
        out / "checkpoint-8", out / "checkpoint-61"
    )
    faults = [fault for _, fault in check_run(out) if fault]
    assert faults == [
        f"{out / f'checkpoint-{name}'}: this run's checkpoint-{step}, copied or renamed, so no verb goes on from it; "
        "move it away, or back to its name"
        for name, step in ((60, 4), (61, 8))
    ]
    shutil.rmtree(out / "checkpoint-61")
    (out / "checkpoint-60").rename(out / "checkpoint-4")
    assert not [fault for _, fault in check_run(out) if fault]
    assert [path.name for path in RunDir(out).checkpoints()] == ["checkpoint-4", "checkpoint-8"]
    again(out, overwrite=True)
