"""What stands on the disk: files that are complete or not there, manifests, run folders."""

from .claims import FolderInUseError
from .manifest import Manifest
from .runs import Run, open_run

__all__ = ["FolderInUseError", "Manifest", "Run", "open_run"]
