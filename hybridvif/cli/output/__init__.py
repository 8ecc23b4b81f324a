"""The output of the commands: tables, documents, diffs, drawings."""
