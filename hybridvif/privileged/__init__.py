"""What runs with privileges, and nothing else. The threat model in prose; SECURITY.md has the table.

The caller is not trusted: whoever captures it can send any message. So no argv, path, program, SQL or connection string
crosses the boundary; those come from the daemon's own configuration, as does the choice of executor. Two entry points,
observe and apply, are all there is. A request is decoded strictly (wire.py) and permitted whole (policy.py) before any
of it runs, and each executor looks once more at what is really there before it writes (steps.objection). Failures cross
as data: privsep would rebuild an exception from its args alone, and run its constructor in the caller.

Worst case for a captured caller: it plugs and unplugs VM ports on the bridges this host allows.
"""
