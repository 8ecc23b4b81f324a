"""The privileged daemon: the only code that runs with privileges. SECURITY.md has the threat model as a table.

The client is not trusted: a captured client can send any message. So no argument list, path, program, SQL or connection
string crosses the boundary. The daemon takes those, and the choice of executors, from its own configuration.

The daemon serves three requests, observe, apply and watch (requests.py). It decodes a request strictly (codec.py). It
authorizes the whole request before any step runs (authorize.py). Each executor checks a step again before it writes
(state.objection).

SECURITY.md lists what a captured client can do. In the worst case it plugs and unplugs the VM ports of this host.
"""
