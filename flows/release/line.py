"""The line: every client that a release needs, made once per flow run from the blocks or the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bentos.policy.load import load_policy
from bentos.policy.release import ReleasePolicy
from bentos.serving.errors import PermanentError
from bentos.serving.files import held
from infra.settings import StackSettings

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from bentos.serving.environments.environment import Environments
    from bentos.versions.registry import Registry
    from blocks.store import StoreBlock
    from blocks.target import TargetBlock
    from infra.gateways.interface import Gateway
    from infra.images.interface import Images, RegistryLogin
    from infra.targets.interface import Target
    from monitoring.ledger.ledger import Ledger

    B = TypeVar("B", bound=Block)


class UnknownBlockError(PermanentError):
    """A target or policy that was asked for by a name that no block has."""


@dataclass(frozen=True)
class Line:
    """Registry, environments, targets, gateway, ledger and store of one stack.

    *target* finds what runs on any of *targets* and starts what is new on the one named *target_name*; *images* makes
    images for that one, None where it runs none.
    """

    settings: StackSettings
    registry: Registry
    environments: Environments
    targets: Mapping[str, TargetBlock]
    target_name: str
    target: Target
    images: Images | None
    gateway: Gateway
    ledger: Ledger
    store: StoreBlock
    logins: Mapping[str, RegistryLogin] = field(default_factory=dict)

    def on(self, name: str | None) -> Line:
        """The same line, but what is new starts on the target *name*; None: on the one that is chosen already.

        Raises UnknownBlockError for a target that no block has.
        """
        if name is None or name == self.target_name:
            return self
        target, images = _on(self.targets, name, self.logins, self.settings, self.registry.tracking_uri)
        return replace(self, target_name=name, target=target, images=images)

    @property
    def scratch(self) -> Path:
        """Folder of releases under way: evidence that is not in the ledger yet, one folder per run."""
        return self.settings.root / "releases"

    @contextmanager
    def lock(self, model: str) -> Iterator[None]:
        """Held while one step changes *model*'s world, so that two flows never act at the same moment."""
        with held(self.settings.root / "locks" / f"{model}.lock"):
            yield


def default_blocks(settings: StackSettings, tracking_uri: str) -> dict[tuple[str, str], Block]:
    """The blocks of the embedded stack by noun and name, as ``shipway up`` saves them."""
    from blocks.gateway import GatewayBlock
    from blocks.policy import PolicyBlock
    from blocks.registry import RegistryBlock
    from blocks.store import StoreBlock

    return {
        ("registry", "local"): RegistryBlock(tracking_uri=tracking_uri, cache=settings.models),
        **{("target", name): block for name, block in default_targets(settings).items()},
        ("gateway", "local"): GatewayBlock(
            folder=settings.gateway,
            host=settings.gateway_host or settings.client_host,
            port=settings.gateway_port,
            admin_port=settings.gateway_admin_port,
            admin_host=settings.gateway_admin_host,
        ),
        ("store", "local"): StoreBlock.of_reports(settings),
        ("policy", "default"): PolicyBlock(folder=settings.policies),
    }


def default_targets(settings: StackSettings) -> dict[str, TargetBlock]:
    """The targets that every stack has: processes of this machine, and containers of its engine as the settings say."""
    from blocks.target import TargetBlock

    def given(prefix: str) -> dict[str, Any]:
        names = [name for name in type(settings).model_fields if name.startswith(prefix)]
        chosen = {name.removeprefix(prefix): getattr(settings, name) for name in names}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in chosen.items()
            if value is not None and name != "registry"
        }

    return {
        "process": TargetBlock(folder=settings.deployments, segments=settings.segments),
        "docker": TargetBlock(
            kind="docker",
            folder=settings.containers,
            segments=settings.segments,
            docker=given("docker_"),
            images=given("image_"),
            image_registry=settings.image_registry,
        ),
    }


def every_target(settings: StackSettings, tracking_uri: str = "") -> Target:
    """All targets that the settings alone give, as one: what ``up`` restores and ``down`` stops."""
    from infra.targets.several import SeveralTargets

    blocks = default_targets(settings)
    return SeveralTargets({name: block.client(tracking_uri) for name, block in blocks.items()}, "process")


def open_line(target: str | None = None) -> Line:
    """The line of this process's stack. *target* names a ``shipway-target`` block; None: the one that the settings name.

    Blocks that are saved win over the settings. Raises UnknownBlockError for a target that no block has, and BlockError
    for a block that cannot be used.
    """
    import os

    from prefect.client.orchestration import get_client

    from bentos.serving.environments.environment import Environments
    from blocks.gateway import GatewayBlock
    from blocks.image_registry import ImageRegistryBlock
    from blocks.interface import load_every, load_strict
    from blocks.registry import RegistryBlock
    from blocks.store import StoreBlock
    from blocks.target import TargetBlock
    from infra.settings import load_settings
    from monitoring.ledger.ledger import Ledger

    settings = load_settings(os.environ)
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_url
    fallback = default_blocks(settings, tracking_uri)
    name = target or settings.target

    with get_client(sync_client=True) as client:

        def block(kind: type[B], noun: str) -> B:
            chosen = load_strict(kind, "local", client) or fallback[noun, "local"]
            assert isinstance(chosen, kind)
            return chosen

        registry = block(RegistryBlock, "registry").client()
        targets = {**default_targets(settings), **load_every(TargetBlock, client)}
        logins = {key: found.login() for key, found in load_every(ImageRegistryBlock, client).items()}
        running, images = _on(targets, name, logins, settings, registry.tracking_uri)
        return Line(
            settings=settings,
            registry=registry,
            environments=Environments(settings.envs),
            targets=targets,
            target_name=name,
            target=running,
            images=images,
            gateway=block(GatewayBlock, "gateway").client(),
            ledger=Ledger(registry.tracking_uri, settings.root / "releases" / "files"),
            store=block(StoreBlock, "store"),
            logins=logins,
        )


def _on(
    targets: Mapping[str, TargetBlock],
    name: str,
    logins: Mapping[str, RegistryLogin],
    settings: StackSettings,
    tracking_uri: str,
) -> tuple[Target, Images | None]:
    """All targets as one that starts on *name*, and what makes that one's images."""
    from infra.targets.several import SeveralTargets

    if name not in targets:
        raise UnknownBlockError(
            f"target {name!r}: no block shipway-target/{name} is saved; expected one of {', '.join(sorted(targets))}."
            " Save one in the Prefect UI."
        )

    def login(key: str) -> RegistryLogin | None:
        wanted = targets[key].image_registry
        if wanted is not None and wanted not in logins:
            raise UnknownBlockError(
                f"target {key!r}: no block shipway-image-registry/{wanted} is saved. Save it in the Prefect UI with the"
                " user and the password of the image registry."
            )
        return logins[wanted] if wanted is not None else None

    clients = {key: block.client(tracking_uri, login(key)) for key, block in targets.items()}
    return SeveralTargets(clients, name), targets[name].builder(settings.images, login(name))


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
