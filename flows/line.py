"""The line: every client that a release needs, made once per flow run from the blocks or the settings."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bentos.errors import PermanentError
from bentos.policy import ReleasePolicy, load_policy
from infra.settings import StackSettings

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from bentos.environment import Environments
    from bentos.registry import Registry
    from blocks.store import StoreBlock
    from infra.gateways.interface import Gateway
    from infra.targets.interface import Target
    from monitoring.ledger import Ledger

    B = TypeVar("B", bound=Block)


class UnknownBlockError(PermanentError):
    """A target or policy that was asked for by a name that no block has."""


@dataclass(frozen=True)
class Line:
    """Registry, environments, target, gateway, ledger and store of one stack."""

    settings: StackSettings
    registry: Registry
    environments: Environments
    target: Target
    gateway: Gateway
    ledger: Ledger
    store: StoreBlock

    @property
    def scratch(self) -> Path:
        """Folder of releases under way: evidence that is not in the ledger yet, one folder per run."""
        return self.settings.root / "releases"

    @contextmanager
    def lock(self, model: str) -> Iterator[None]:
        """Held while one step changes *model*'s world, so that two flows never act at the same moment."""
        folder = self.settings.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{model}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def default_blocks(settings: StackSettings, tracking_uri: str) -> dict[str, Block]:
    """The blocks of the embedded stack by name, as ``shipway up`` saves them."""
    from blocks.gateway import GatewayBlock
    from blocks.policy import PolicyBlock
    from blocks.registry import RegistryBlock
    from blocks.store import StoreBlock
    from blocks.target import TargetBlock

    return {
        "registry": RegistryBlock(tracking_uri=tracking_uri, cache=settings.models),
        "target": TargetBlock(folder=settings.deployments, segments=settings.segments),
        "gateway": GatewayBlock(
            folder=settings.gateway,
            host=settings.client_host,
            port=settings.gateway_port,
            admin_port=settings.gateway_admin_port,
        ),
        "store": StoreBlock(folder=settings.reports),
        "policy": PolicyBlock(folder=settings.policies),
    }


NAMES = {"registry": "local", "target": "process", "gateway": "local", "store": "local", "policy": "default"}


def open_line(target: str = NAMES["target"]) -> Line:
    """The line of this process's stack. *target* names a ``shipway-target`` block.

    Blocks that are saved win over the settings. Raises UnknownBlockError for a target that no block has, and BlockError
    for a block that cannot be used.
    """
    import os

    from prefect.client.orchestration import get_client

    from bentos.environment import Environments
    from blocks.gateway import GatewayBlock
    from blocks.interface import load_strict
    from blocks.registry import RegistryBlock
    from blocks.store import StoreBlock
    from blocks.target import TargetBlock
    from infra.settings import load_settings
    from monitoring.ledger import Ledger

    settings = load_settings(os.environ)
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_url
    fallback = default_blocks(settings, tracking_uri)

    with get_client(sync_client=True) as client:

        def block(kind: type[B], noun: str, name: str) -> B:
            found = load_strict(kind, name, client)
            if found is None and name != NAMES[noun]:
                raise UnknownBlockError(
                    f"{noun} {name!r}: no block {kind.get_block_type_slug()}/{name} is saved. Save one in the Prefect UI,"
                    f" or use {NAMES[noun]!r}."
                )
            chosen = found or fallback[noun]
            assert isinstance(chosen, kind)
            return chosen

        registry = block(RegistryBlock, "registry", NAMES["registry"])
        return Line(
            settings=settings,
            registry=registry.client(),
            environments=Environments(settings.envs),
            target=block(TargetBlock, "target", target).client(),
            gateway=block(GatewayBlock, "gateway", NAMES["gateway"]).client(),
            ledger=Ledger(registry.tracking_uri, settings.root / "releases" / "files"),
            store=block(StoreBlock, "store", NAMES["store"]),
        )


def policy_of(settings: StackSettings, model: str, name: str | None) -> tuple[ReleasePolicy, str]:
    """The policy of *model* and where it came from: the block *name*, else the model's own block, else YAML, else defaults.

    Raises UnknownBlockError for a *name* that no block has, PolicyError or BlockError for one that cannot be used.
    """
    from prefect.client.orchestration import get_client

    from blocks.interface import load_strict
    from blocks.policy import PolicyBlock

    own = model.lower().replace("_", "-").replace(".", "-")
    with get_client(sync_client=True) as client:
        found = load_strict(PolicyBlock, name or own, client)
    if found is not None:
        policy, where = found.policy(model)
        return policy, f"block {name or own}: {where}"
    if name is not None:
        raise UnknownBlockError(
            f"policy {name!r}: no block shipway-release-policy/{name} is saved. Save one in the Prefect UI, or leave the"
            f" parameter out for the policy file of the model."
        )
    return load_policy(settings.policies, model)
