"""Tables, as kubectl asks for them, and objects cut down to their metadata.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/response.go, asTable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vkprovider.localcluster.printers import find_printer

Object = dict[str, Any]


def make_table(
    storage: str, objects: Iterable[Object], *, metadata: Object, include: str, headers: bool = True
) -> Object:
    """A ``meta.k8s.io/v1`` Table.

    Args:
        storage: Key of the collection.
        objects: What the rows show.
        metadata: List metadata, with the resource version.
        include: ``Metadata``, ``Object`` or ``None``: what each row carries besides its cells.
        headers: Whether to name the columns; in a watch only the first event does.
    """
    printer = find_printer(storage)
    rows: list[Object] = []
    for obj in objects:
        row: Object = {"cells": printer.row(obj)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial_metadata(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": printer.definitions() if headers else [],
        "rows": rows,
    }


def partial_metadata(obj: Object) -> Object:
    """The object as ``PartialObjectMetadata``."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
