"""command_lines: the operations of a transaction as words of ovs-vsctl."""

from __future__ import annotations

import shlex

import pytest

from hybridvif.executors.command_lines import words_of
from hybridvif.executors.ovs_rows import NOTHING, Operation

UUID = "0b1c2d3e-0000-4000-8000-000000000002"
ROW = {"table": "Interface", "where": [["_uuid", "==", ["uuid", UUID]]]}
SWITCH = {"table": "Open_vSwitch", "where": []}
INSERT = {
    "op": "insert",
    "table": "Port",
    "uuid-name": "port_of_step0",
    "row": {"name": "qvo", "interfaces": ["named-uuid", "interface_of_step0"], "tag": 4095},
}
MAP = ["map", [["iface-id", "a,b=c"], ["vm-uuid", 'd"']]]


@pytest.mark.parametrize(
    ("operation", "line"),
    [
        (INSERT, "-- --id=@port_of_step0 create Port 'name=\"qvo\"' interfaces=@interface_of_step0 tag=4095"),
        ({"op": "update", **ROW, "row": {"mtu_request": NOTHING}}, f"-- set Interface {UUID} 'mtu_request=[]'"),
        (
            {"op": "mutate", **ROW, "mutations": [["external_ids", "delete", ["set", ["iface-id", "vm-uuid"]]]]},
            f"-- remove Interface {UUID} external_ids '\"iface-id\"' '\"vm-uuid\"'",
        ),
        (
            {"op": "mutate", **ROW, "mutations": [["external_ids", "insert", MAP]]},
            f'-- add Interface {UUID} external_ids \'"iface-id"="a,b=c"\' \'"vm-uuid"="d\\""\'',
        ),
        (
            {
                "op": "mutate",
                "table": "Bridge",
                "where": [["name", "==", "br-int"]],
                "mutations": [["ports", "insert", ["set", [["named-uuid", "port_of_step0"], ["uuid", UUID]]]]],
            },
            f"-- add Bridge br-int ports @port_of_step0 {UUID}",
        ),
        (
            {
                "op": "mutate",
                "table": "Open_vSwitch",
                "where": [],
                "mutations": [["bridges", "delete", ["uuid", UUID]]],
            },
            f"-- remove Open_vSwitch . bridges {UUID}",
        ),
        ({"op": "delete", **ROW, "table": "QoS"}, f"-- --if-exists destroy QoS {UUID}"),
        ({"op": "wait", **ROW, "columns": ["name"], "until": "==", "rows": [], "timeout": 0}, ""),
    ],
)
def test_operation_becomes_words_of_ovs_vsctl(operation: Operation, line: str) -> None:
    assert shlex.join(words_of(operation)) == line
