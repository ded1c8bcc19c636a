"""Power cuts at every sync, and after every receipt: no acknowledged signal is lost (promises D1, D8)."""

import pytest

from tests.fault_figures import Figures
from tests.faults.disk import OPTIONS, Disk
from tests.faults.ledgers import acknowledged, check, make
from tests.faults.roles import SENT

VARIANTS = ["kept", "dropped", "some", "some others"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("commits", ["loop", "thread"])
async def test_d1_no_power_cut_loses_what_was_acknowledged(traced, tmp_path, commits, record_property):
    made, log, notes = tmp_path / "made.db", tmp_path / "log", tmp_path / "notes"
    job_ids = await make(made)
    disk = Disk(made, notes)
    options = {"job_ids": job_ids, "commits": commits, "checkpoint_pages": 30 if commits == "thread" else None}
    assert traced.run("send", *OPTIONS, log=log, url=f"sqlite:///{made}", notes=str(notes), **options) == 0
    await check_images(disk, log, tmp_path / "image.db", job_ids, record_property)
    assert len(acknowledged(disk.notes)) == SENT


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("n", "error"), [(1, "EIO"), (2, "EIO"), (4, "EIO"), (4, "ENOSPC"), (9, "EIO")])
async def test_d1_a_sync_that_failed_once_may_have_forgotten_everything(traced, tmp_path, n, error, record_property):
    """As Linux does it: the pages are clean after the error, so the next sync succeeds without them."""
    made, log, notes = tmp_path / "made.db", tmp_path / "log", tmp_path / "notes"
    job_ids = await make(made)
    disk = Disk(made, notes)
    failing = ("-e", f"inject=fdatasync:error={error}:when={n}")
    options = {"job_ids": job_ids, "commits": "thread", "checkpoint_pages": 30}
    assert traced.run("send", *OPTIONS, *failing, log=log, url=f"sqlite:///{made}", notes=str(notes), **options) == 0
    assert f"= -1 {error}" in log.read_text()
    await check_images(disk, log, tmp_path / "image.db", job_ids, record_property)
    assert len(acknowledged(disk.notes)) == SENT


async def test_a_power_cut_while_a_file_is_made_leaves_one_that_opens(traced, tmp_path, record_property):
    path, log, notes = tmp_path / "new.db", tmp_path / "log", tmp_path / "notes"
    disk = Disk(path, notes)
    assert traced.run("create", *OPTIONS, log=log, url=f"sqlite:///{path}", notes=str(notes)) == 0
    image, images, figures = tmp_path / "image.db", 0, Figures()
    for moment in disk.moments(log):
        for seed, variant in enumerate(VARIANTS):
            disk.write_image(image, variant, seed)
            enqueued = [note["enqueued"] for note in disk.notes if "enqueued" in note]
            [made] = await make(image, 1)
            assert made > max([0, *enqueued]), moment
            figures += await check(image, disk.notes, [*enqueued, made][:1])
            images += 1
    assert images > 40
    figures.record(record_property, happened=images)


async def check_images(disk, log, image, job_ids, record_property):
    """Check what the disk may hold at each moment; each such image counts as a power cut."""
    images, figures = 0, Figures()
    for moment in disk.moments(log):
        for seed, variant in enumerate(VARIANTS):
            disk.write_image(image, variant, seed)
            try:
                figures += await check(image, disk.notes, job_ids)
            except BaseException as error:
                error.add_note(f"at {moment}, unsynced writes {variant}")
                raise
            images += 1
    assert images > 40
    assert figures.committed > 0
    figures.record(record_property, happened=images)
