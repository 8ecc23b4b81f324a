"""filters: the arguments of ovs-ofctl."""

from __future__ import annotations

import time
from pathlib import Path

from hybridvif.client.filters import flows_of
from hybridvif.model.settings import Settings


def test_bridge_name_with_spaces_is_one_argument(tmp_path: Path) -> None:
    """Another program may have named the bridge, and root may run this."""
    program = tmp_path / "ovs-ofctl"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    settings = Settings(program_path=str(tmp_path), ovsdb_connection="unix:/run/ovs/db.sock")
    words = flows_of(settings, "br --log-file=/etc/cron.d/x y", 7, time.monotonic() + 10).splitlines()
    assert words[-3:] == ["dump-flows", "unix:/run/ovs/br --log-file=/etc/cron.d/x y.mgmt", "table=7"]
    assert not any(word.startswith("--log-file") for word in words)
