"""The tables that cross stages: schema, checked read, atomic write, DONE."""

from clinrep.artifacts.files import (
    atomic_path,
    find_model,
    find_runs,
    fingerprint,
    fingerprint_file,
    list_tokenizer_files,
    open_to_others,
    read_done,
    write_done,
    write_text,
)
from clinrep.artifacts.schema import SPLITS, TABLES, ArtifactError, Column, Table, describe_tables
from clinrep.artifacts.tables import find_parts, iterate_table, read_table, read_table_file, write_table

__all__ = [
    "SPLITS",
    "TABLES",
    "ArtifactError",
    "Column",
    "Table",
    "atomic_path",
    "describe_tables",
    "find_model",
    "find_parts",
    "find_runs",
    "fingerprint",
    "fingerprint_file",
    "iterate_table",
    "list_tokenizer_files",
    "open_to_others",
    "read_done",
    "read_table",
    "read_table_file",
    "write_done",
    "write_table",
    "write_text",
]
