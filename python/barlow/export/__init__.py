"""Weights for other libraries: one file for each format, a model card beside it, the proof that it works."""

from barlow.export.write import FORMATS, Exported, FormatName, export

__all__ = ["FORMATS", "Exported", "FormatName", "export"]
