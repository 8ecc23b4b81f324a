"""Links by rtnetlink."""
