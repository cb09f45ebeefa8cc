"""Models: base models, their students, and how the two differ; read, checked and mapped."""

from .base import Base, load_base
from .sites import Sites, find_sites
from .students import Student, load_student

__all__ = ["Base", "Sites", "Student", "find_sites", "load_base", "load_student"]
