"""hybridvif-privsep-helper: the script that starts the privileged daemon (startup.py)."""

from __future__ import annotations

from hybridvif.postponed import OF_OSLO, postpone


def main() -> None:
    """Start the daemon and end; the daemon goes on."""
    # Before oslo.config is imported, by startup.py among others.
    postpone(*OF_OSLO)
    from hybridvif.privileged import startup

    startup.main()


if __name__ == "__main__":
    main()
