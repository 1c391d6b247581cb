"""One request on several devices: its tokens are spread over them, and every rank takes the same decisions."""

from c4d.parallel.degrees import Degrees, SequenceParallel
from c4d.parallel.start import Job, NoLauncherError, start

__all__ = ["Degrees", "Job", "NoLauncherError", "SequenceParallel", "start"]
