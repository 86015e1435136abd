"""Print docs/data.md."""

from clinrep.artifacts import describe_tables

print(describe_tables(), end="")
