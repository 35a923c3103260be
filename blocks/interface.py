"""What every Shipway block shares: fields are checked on load, and what does not fit is refused.

Prefect accepts unknown fields silently, does not validate edits, and resets a renamed field to its default. A block
that decides what becomes live may do none of that, so ``load_strict`` reads the document and checks it first.
"""

from __future__ import annotations

from typing import Any, TypeVar

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel, ValidationError

from bentos.serving.errors import PermanentError

B = TypeVar("B", bound=Block)
M = TypeVar("M", bound=BaseModel)


class BlockError(PermanentError):
    """A block document that cannot be used; the message names the block and the field."""


def checked(kind: type[M], values: dict[str, Any], field: str) -> M:
    """*values*, the block's field *field*, as *kind*. Raises BlockError naming every key at fault."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{field}.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (found {problem['input']!r})"
            for problem in error.errors()
        )
        raise BlockError(f"{problems}. Edit the block in the Prefect UI.") from error


def load_strict(kind: type[B], name: str, client: SyncPrefectClient) -> B | None:
    """The block *name* of *kind*, or None where there is none.

    Raises BlockError when the stored document has fields that *kind* does not know, lacks, or cannot take.
    """
    slug = kind.get_block_type_slug()
    try:
        document = client.read_block_document_by_name(name, block_type_slug=slug)
    except ObjectNotFound:
        return None
    return _strictly(kind, name, dict(document.data))


def load_every(kind: type[B], client: SyncPrefectClient) -> dict[str, B]:
    """Every saved block of *kind* by name. Raises BlockError when one cannot be used."""
    slug = kind.get_block_type_slug()
    try:
        documents = client.read_block_documents_by_type(slug, include_secrets=True)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return {}  # no block of the kind was ever saved here
    return {str(found.name): _strictly(kind, str(found.name), dict(found.data)) for found in documents if found.name}


def _strictly(kind: type[B], name: str, data: dict[str, Any]) -> B:
    """The document's *data* as a block of *kind*, every field known and valid. Raises BlockError."""
    slug = kind.get_block_type_slug()
    known = {field.alias or field_name for field_name, field in kind.model_fields.items()}
    unknown = sorted(set(data) - known - {"block_type_slug"})
    if unknown:
        raise BlockError(
            f"block {slug}/{name}: unknown field {', '.join(unknown)}; expected {', '.join(sorted(known))}. "
            "Edit the block in the Prefect UI, or delete it and run 'shipway up' again."
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BlockError(f"block {slug}/{name} cannot be used: {error}") from error
