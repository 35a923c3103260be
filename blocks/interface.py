"""What every Shipway block shares: fields are checked on load, and what does not fit is refused.

Prefect accepts unknown fields silently, does not validate edits, and resets a renamed field to its default. A block
that decides what becomes live may do none of that, so ``load_strict`` reads the document and checks it first.
"""

from __future__ import annotations

from typing import Any, TypeVar

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from bentos.errors import PermanentError

B = TypeVar("B", bound=Block)


class BlockError(PermanentError):
    """A block document that cannot be used; the message names the block and the field."""


def load_strict(kind: type[B], name: str, client: SyncPrefectClient) -> B | None:
    """The block *name* of *kind*, or None where there is none.

    Raises BlockError when the stored document has fields that *kind* does not know, lacks, or cannot take.
    """
    slug = kind.get_block_type_slug()
    try:
        document = client.read_block_document_by_name(name, block_type_slug=slug)
    except ObjectNotFound:
        return None
    data: dict[str, Any] = dict(document.data)
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
