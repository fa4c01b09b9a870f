"""Links below OUT: never followed to write or to delete, whatever they stand in the place of."""

import json
import os
import shutil
from pathlib import Path

import pytest
from files import encode, write_classifier
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.lease import hold
from dtn_ray.checkpoints import checkpoint
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.emoji.job import make_emoji
from dtn_ray.emoji.options import EmojiSet
from dtn_ray.errors import UserError
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.resumable.run import check_folder
from dtn_ray.storage import local_writes


def photo(shade: int) -> bytes:
    return encode(Image.new("RGB", (32, 32), (8 * shade, 90, 30)))


def tree(folder: Path) -> dict[str, bytes | str]:
    """All below a folder: contents of files, targets of links."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def job(made, tmp_path) -> Conversion:
    """The conversion of three photos, which has run once."""
    for i, name in enumerate(("a.png", "deep/b.png", "deep/er/c.png")):
        storage.write_bytes(f"{tmp_path}/in/{name}", photo(i))
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", sheet=2)
    convert(job)
    return job


def change_all(job: Conversion) -> None:
    """Makes all photos new ones, so that the next run writes every file again."""
    for i, path in enumerate(Path(job.source).rglob("*.png")):
        path.write_bytes(photo(10 + i))


def link_elsewhere(path: Path, elsewhere: Path) -> None:
    """Moves a file or folder elsewhere, and leaves a link in its place."""
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def told(job: Conversion) -> str:
    """What a run says: its one line where it is refused."""
    try:
        convert(job)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["elsewhere", "relative", "nowhere", "itself", "a folder"])
def test_links_in_the_place_of_files_are_replaced_themselves(job, tmp_path, kind):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "folder/mine").write_text("mine")
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "mark.json"]
    names = {str(path.relative_to(out)).split("/", 1)[-1] for path in files}
    assert {"lease.json", "summary.json", "report.html", "sheet.png", "images/deep/er/c.png.png"} <= names
    for i, path in enumerate(files):
        moved = elsewhere / str(i)
        if kind in ("elsewhere", "relative"):
            link_elsewhere(path, moved)
            target = {"elsewhere": moved, "relative": os.path.relpath(moved, path.parent)}[kind]
        else:
            target = {"nowhere": elsewhere / "nowhere", "itself": path.name, "a folder": elsewhere / "folder"}[kind]
        path.unlink()
        path.symlink_to(target)
    before = tree(elsewhere)
    change_all(job)
    assert told(job) == ""
    assert tree(elsewhere) == before
    assert not [path for path in out.rglob("*") if path.is_symlink() and "ledger" not in path.parts]
    assert Path(convert(job)["sheet"]).stat().st_size > 100


def test_links_in_the_place_of_the_run_s_end_and_of_the_mark(job, tmp_path, call):
    out, mine = tmp_path / "out", tmp_path / "mine.json"
    mine.write_text("mine")
    for target in (mine, tmp_path / "nowhere", "last-run.json"):
        (out / "last-run.json").unlink(missing_ok=True)
        (out / "last-run.json").symlink_to(target)
        assert call(f"convert {job.checkpoint} {job.source} {job.out}")[0] == 0
        assert json.loads((out / "last-run.json").read_text())["outcome"] == "succeeded"
        assert not (out / "last-run.json").is_symlink() and not (tmp_path / "nowhere").exists()
    link_elsewhere(out / ".dtn-ray/mark.json", tmp_path / "mark.json")
    before = tree(out)
    assert "lacks dtn-ray's mark" in told(job)
    assert tree(out) == before and mine.read_text() == "mine"


@pytest.mark.parametrize("absent", [False, True])
def test_links_in_the_place_of_folders_are_not_followed(job, tmp_path, absent):
    out = tmp_path / "out"
    folders = [path for path in out.rglob("*") if path.is_dir()]
    assert {"ledger", "images", "deep", "er", ".dtn-ray"} <= {path.name for path in folders}
    for i, folder in enumerate(folders):
        elsewhere = tmp_path / f"elsewhere-{i}/folder"
        link_elsewhere(folder, elsewhere)
        if absent:
            elsewhere = elsewhere.rename(elsewhere.with_name("moved"))
        before = tree(elsewhere)
        change_all(job)
        said = told(job)
        if folder.name in ("deep", "er"):
            (summary,) = out.glob("*/summary.json")
            rows = json.loads(summary.read_text())
            assert rows["converted"] and rows["failed"]
            reason = "cannot be written: a folder of OUT is a link"
            assert set(rows["failures"].values()) == {reason}
        else:
            assert str(folder) in said and "link" in said
        assert tree(elsewhere) == before and folder.is_symlink()
        assert not absent or not (tmp_path / f"elsewhere-{i}/folder").exists()
        folder.unlink()
        elsewhere.rename(folder)
    assert told(job) == ""


def test_links_below_the_scratch_folder_lead_nowhere(job, tmp_path):
    scratch, mine = tmp_path / "out/.dtn-ray", tmp_path / "mine"
    name = "0123456789abcdef0123456789abcdef"
    mine.mkdir()
    (mine / f"{name}.partial").write_text("as ours are called")
    (scratch / name).symlink_to(mine)
    assert str(scratch / name) in told(job)
    (scratch / name).unlink()
    (scratch / name).mkdir()
    (scratch / name / f"{name}.partial").symlink_to(mine / f"{name}.partial")
    assert told(job) == ""
    assert tree(mine) == {f"{name}.partial": b"as ours are called"} and not (scratch / name).exists()


def test_a_link_among_the_shards_stays(job, tmp_path):
    job = Conversion(**vars(job) | {"out": f"{tmp_path}/shards", "shards": "parquet"})
    (shard,) = Path(convert(job)["folder"], "shards").iterdir()
    link = shard.with_name("507f1f77bcf86cd799439011.parquet")
    link.symlink_to(shard)
    assert told(job) == ""
    assert link.is_symlink() and shard.exists()


def test_links_in_IN_never_lead_to_the_job_s_own_results(job, tmp_path):
    out, (model,) = tmp_path / "out", (tmp_path / "out").glob("*/images")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/mine.png").write_bytes(photo(30))
    (tmp_path / "others/out").symlink_to(out)
    for name, target in (("out", out), ("deep/images", model), ("others", tmp_path / "others")):
        (tmp_path / "in" / name).symlink_to(target)
    summary = convert(job)
    assert (summary["images"], summary["done_before"], summary["converted"]) == (4, 3, 1)
    assert sorted(summary["left_out"]["results"]["first"]) == ["deep/images", "others/out", "out"]


def test_OUT_itself_may_be_a_link_and_lie_below_one(made, tmp_path):
    storage.write_bytes(f"{tmp_path}/in/a.png", photo(1))
    (tmp_path / "disk/there").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "link/out").symlink_to("there")
    for out in ("link/out", "link/new/out", "link/out/../out"):
        assert told(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/{out}")) == ""
    assert (tmp_path / "disk/there/lease.json").is_file() and (tmp_path / "disk/new/out/lease.json").is_file()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/out").is_symlink()


@pytest.mark.parametrize("out", ["out", "./out/", "~/out", "file://HERE/a%20b", "HERE//out", "deep/../out"])
def test_OUT_may_be_written_in_any_way(made, tmp_path, monkeypatch, out):
    storage.write_bytes(f"{tmp_path}/in/a.png", photo(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    job = Conversion(f"{made}/dtn", "in", out.replace("HERE", str(tmp_path)), sheet=1)
    assert told(job) == ""
    folder = tmp_path / ("a b" if "%" in out else "out")
    assert len(list(folder.glob("*/images/a.png.png"))) == 1 and (folder / ".dtn-ray/mark.json").is_file()
    assert convert(job)["done_before"] == 1


@pytest.mark.parametrize("target", ["mine", "nowhere", "lease.json"])
def test_a_lease_that_is_a_link_is_nobodys(tmp_path, target):
    (tmp_path / "mine").write_text("mine")
    lease = tmp_path / "out/lease.json"
    lease.parent.mkdir()
    lease.symlink_to(tmp_path / target if target != lease.name else target)
    with hold(str(lease), 60) as held:
        held.check()
    assert not lease.is_symlink() and (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_in_the_place_of_a_lease_is_one_line_and_no_waiting(tmp_path):
    os.mkfifo(tmp_path / "lease.json")
    with pytest.raises(UserError, match=r"lease\.json: cannot be read"), hold(f"{tmp_path}/lease.json", 60):
        pass


def test_a_checkpoint_replaces_links(tmp_path):
    write_classifier(tmp_path / "f")
    names = sorted(path.name for path in (tmp_path / "f").iterdir())
    for name in names:
        link_elsewhere(tmp_path / "f" / name, tmp_path / "elsewhere" / name)
    checkpoint.save_optimizers(tmp_path / "elsewhere", {})
    (tmp_path / "f/optimizers.pt").symlink_to(tmp_path / "elsewhere/optimizers.pt")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "elsewhere").iterdir()}
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").iterdir()}
    write_classifier(tmp_path / "f")
    checkpoint.save_optimizers(tmp_path / "f", {})
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == sorted([*names, "optimizers.pt"])
    assert not [path for path in (tmp_path / "f").iterdir() if path.is_symlink()]
    assert {path.name: path.stat().st_ino for path in (tmp_path / "elsewhere").iterdir()} == before
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").iterdir()} == stamps
    load_classifier(str(tmp_path / "f"))


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(ZeroDivisionError), local_writes.replacing(tmp_path / "f/a") as path:
        path.write_text("a part")
        _ = 1 / 0
    assert list((tmp_path / "f").iterdir()) == []


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "link"])
def test_the_folder_of_a_run_may_be_a_link_and_must_hold_none(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs/name").mkdir(parents=True)
    (tmp_path / "runs/name/experiment.json").write_text("{}")
    (tmp_path / "other").symlink_to(tmp_path / "runs/name")
    check_folder(f"{tmp_path}/runs/name")
    check_folder(f"{tmp_path}/other")
    (tmp_path / "runs/name/deep").mkdir()
    (tmp_path / "runs/name/deep/link").symlink_to(tmp_path / target if target != "link" else target)
    for name in ("runs/name", "other"):
        with pytest.raises(UserError, match="deep/link: a link, which the folder of a run must not hold"):
            check_folder(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["emoji.json", "sheet.png"])
def test_a_set_of_emoji_replaces_links(tmp_path, name, ray_cluster):
    job = EmojiSet(f"{tmp_path}/t", count=2, size=16)
    make_emoji(job)
    link_elsewhere(tmp_path / "t" / name, tmp_path / "elsewhere")
    before, inode = (tmp_path / "elsewhere").read_bytes(), (tmp_path / "elsewhere").stat().st_mtime_ns
    make_emoji(job)
    assert (tmp_path / "t" / name).read_bytes() == before and not (tmp_path / "t" / name).is_symlink()
    assert (tmp_path / "elsewhere").stat().st_mtime_ns == inode


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/a", "a//b", "", "."])
def test_no_path_leads_out_of_the_root(tmp_path, path):
    (tmp_path / "root/a").mkdir(parents=True)
    with pytest.raises(ValueError, match="not the path of a file below a folder"):
        local_writes.write(f"{tmp_path}/root", path, b"x")
    with pytest.raises(ValueError, match="not the path of a file below a folder"):
        local_writes.delete(f"{tmp_path}/root", path)


def test_a_root_must_lie_above(tmp_path):
    with pytest.raises(UserError, match="does not lie below"):
        storage.write_bytes(f"{tmp_path}/a/b", b"x", root=f"{tmp_path}/c")
    assert not list(tmp_path.iterdir())
