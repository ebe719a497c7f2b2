"""prompt.pictures: from what a row says a picture is to what the API is sent.

Planning finds and hashes pictures (`Pictures.look`, `Pictures.blocks`) and decodes none; sending prepares them
(`Studio.prepared`). What is remembered between runs is on a `Shelf`.
"""

from pipeline.prompt.pictures.limits import picture_tokens
from pipeline.prompt.pictures.pictures import Pictures, picture_columns, picture_root
from pipeline.prompt.pictures.reference import references
from pipeline.prompt.pictures.shelf import PictureMemo, Shelf
from pipeline.prompt.pictures.showing import abbreviated, write_pictures
from pipeline.prompt.pictures.studio import Studio

__all__ = [
    "PictureMemo",
    "Pictures",
    "Shelf",
    "Studio",
    "abbreviated",
    "picture_columns",
    "picture_root",
    "picture_tokens",
    "references",
    "write_pictures",
]
