"""iproute2-netlink: links through rtnetlink, in an encoding of our own."""

from __future__ import annotations

from hybridvif.executors.netlink.connection import Connection
from hybridvif.executors.netlink.links import LinkExecutor
from hybridvif.model.settings import Settings


class NetlinkExecutor(LinkExecutor):
    """Links through rtnetlink."""

    def __init__(self, settings: Settings) -> None:  # noqa: ARG002  # no setting concerns netlink
        super().__init__(Connection)
