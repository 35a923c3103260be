"""GatewayBlock: who gets the traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field

from infra.gateways.interface import Gateway


class GatewayBlock(Block):
    """The gateway in front of every released model."""

    _block_type_name = "Shipway gateway"
    _block_type_slug = "shipway-gateway"
    _description = "The Envoy gateway that mirrors and splits live traffic."

    kind: Literal["envoy"] = Field("envoy", description="What moves the traffic: Envoy, configured through files.")
    folder: Path = Field(description="Folder of Envoy's configuration and the plans it is rendered from.")
    host: str = Field("127.0.0.1", description="Address that clients send requests to.")
    port: int = Field(description="Port that clients send requests to.", ge=1, le=65535)
    admin_port: int = Field(description="Envoy's admin port.", ge=1, le=65535)
    admin_host: str = Field("127.0.0.1", description="Where Envoy's admin port is reached.")

    def client(self) -> Gateway:
        """A client of the running gateway."""
        from infra.gateways.envoy import EnvoyGateway

        return EnvoyGateway(
            self.folder, host=self.host, port=self.port, admin_port=self.admin_port, admin_host=self.admin_host
        )
