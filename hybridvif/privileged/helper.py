"""hybridvif-privsep-helper: the script that starts the privileged daemon (startup.py)."""

from __future__ import annotations

import gc

from hybridvif.postponed import OF_OSLO, postpone


def main() -> None:
    """Start the daemon and end; the daemon goes on."""
    # Python would look for garbage in what is being imported, again and again: a twelfth of the time (startup.py).
    gc.disable()
    # Before oslo.config is imported, by startup.py among others.
    postpone(*OF_OSLO)
    from hybridvif.privileged import startup

    startup.main()


if __name__ == "__main__":
    main()
