"""The tables that cross stages: schema, checked read, atomic write, DONE."""

from clinrep.artifacts.durable import is_temporary, make_folder, remove_leftovers, sync
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
from clinrep.artifacts.tables import (
    count_rows,
    find_parts,
    iterate_table,
    make_lists,
    read_table,
    read_table_file,
    write_frames,
    write_table,
)
from clinrep.artifacts.weights import count_parameters, read_weight_header

__all__ = [
    "SPLITS",
    "TABLES",
    "ArtifactError",
    "Column",
    "Table",
    "atomic_path",
    "count_parameters",
    "count_rows",
    "describe_tables",
    "find_model",
    "find_parts",
    "find_runs",
    "fingerprint",
    "fingerprint_file",
    "is_temporary",
    "iterate_table",
    "list_tokenizer_files",
    "make_folder",
    "make_lists",
    "open_to_others",
    "read_done",
    "read_table",
    "read_table_file",
    "read_weight_header",
    "remove_leftovers",
    "sync",
    "write_done",
    "write_frames",
    "write_table",
    "write_text",
]
