"""The jobs on disk: a folder each, which a restart finds again."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from c4d.pipelines.output import clear, write_json, writing
from c4d.serve.jobs import ID, REFERENCE, Job

FILE = "job.json"
GONE = ".gone-"  # before the name of a folder that is being removed
logger = logging.getLogger("c4d.serve")


class Store:
    """The folder ``out`` with a folder for each job, named by its id. What it writes raises OutputError."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, id: str) -> Path:
        """Raises ValueError for an id that could name anything else than a folder in here."""
        if not ID.fullmatch(id):
            raise ValueError(f"{id!r} is no id of a job")
        return self.out / id

    def begin(self, id: str) -> Path:
        """A new, empty folder. Raises ValueError if there is one of somebody else."""
        folder = self.folder(id)
        with writing(folder):
            if folder.is_dir():  # perhaps of a job that did not get so far as to have its file
                clear(folder, [REFERENCE])
                try:
                    folder.rmdir()
                except OSError:
                    raise ValueError(f"{id!r} is a folder that is no job's; choose another id") from None
            folder.mkdir(parents=True)
        return folder

    def write(self, job: Job) -> None:
        write_json(job.folder / FILE, job.to_dict())

    def find(self, id: str) -> Job | None:
        """The job of that id; None if there is none, or its file cannot be read."""
        return self._read(self.folder(id)) if ID.fullmatch(id) else None

    def all(self) -> list[Job]:
        """Every job as its file has it, the oldest first."""
        found = (self.find(path.parent.name) for path in self.out.glob(f"*/{FILE}"))
        return sorted((job for job in found if job), key=lambda job: (job.created, job.id))

    def unfinished(self) -> list[Job]:
        """Those that a server which is gone has not ended, the oldest first."""
        for path in self.out.glob(f"{GONE}*"):
            shutil.rmtree(path, ignore_errors=True)
        found = [job for job in self.all() if not job.over]
        for job in found:
            clear(job.folder)  # what a killed worker left half written
        return found

    def remove(self, folder: Path) -> None:
        """The folder of a job: at once, whatever happens while its files go."""
        if not folder.is_dir():  # another call was faster
            return
        gone = self.out / f"{GONE}{folder.name}"
        with writing(folder):
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)

    def _read(self, folder: Path) -> Job | None:
        try:
            return Job.read(json.loads((folder / FILE).read_text(encoding="utf-8")), folder)
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read and is left alone: %s", folder / FILE, error)
            return None
