"""Models: folders of files, and those that are shipped."""

from .folder import read_model_folder

__all__ = ["read_model_folder"]
