"""Embeddings of all images of a data set, as an array or a table that says which row is which image."""

from barlow.embed.write import embed

__all__ = ["embed"]
