"""What a run measured, for whoever wants to compute it again: an archive that may be kept in the repository."""

import gzip
import io
import lzma
import tarfile
from pathlib import Path

from benchmarks.report.reading import RunLeft

ARCHIVE_BYTES_MAX = (
    2 << 20
)  # figures, pages and numbers of a standard run take eight, and all of it should stay about ten
OF_EVERY_TRIAL = ("trial.json", "events.json", "resources.csv.gz", "system.csv.gz", "stock.csv.gz", "queues.csv.gz")
SHRINKS_AT_BEST = 0.3  # from gzip to xz: what would not fit even so is not tried, which takes minutes of a long run
LARGE = ("requests.csv.gz", "calls.csv.gz")  # of as many trials as there is room for, in the order of the plan


def pack(run: RunLeft, path: Path) -> list[str]:
    """
    Write a tar of files compressed one by one, so that equal files are equal bytes and room can be counted. Returns what found no room;
    its checksums are in run.json all the same.
    """
    left_out: list[str] = []
    room = ARCHIVE_BYTES_MAX
    sources = {"run.json": run.folder / "run.json"} | ({"lab.json": run.lab_file} if run.lab_file else {})
    sources |= {
        f"trials/{left.folder.name}/{name}": left.folder / name
        for wanted in (OF_EVERY_TRIAL, LARGE)
        for left in run.trials
        for name in wanted
    }
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, source in sources.items():
            if not source.is_file():
                continue
            if source.stat().st_size * SHRINKS_AT_BEST > room:
                left_out.append(name)
                continue
            data = lzma.compress(
                gzip.decompress(source.read_bytes()) if name.endswith(".gz") else source.read_bytes(), preset=6
            )
            if len(data) > room:
                left_out.append(name)
                continue
            room -= len(data) + 1024  # and its place in the archive
            entry = tarfile.TarInfo(f"{run.name}/{name.removesuffix('.gz')}.xz")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return left_out
