"""Open vSwitch rows by OVSDB (RFC 7047)."""
