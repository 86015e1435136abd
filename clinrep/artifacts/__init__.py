"""The tables that cross stages: schema, checked read, atomic write, DONE."""

from clinrep.artifacts.changes import check_outputs
from clinrep.artifacts.columns import ArtifactError, Column, Table
from clinrep.artifacts.describe import describe_tables
from clinrep.artifacts.durable import is_temporary, make_folder, remove_leftovers, sync
from clinrep.artifacts.files import (
    atomic_path,
    check_file_word,
    find_model,
    find_runs,
    fingerprint,
    fingerprint_file,
    fingerprint_text,
    list_recorded,
    list_tokenizer_files,
    read_content,
    read_done,
    read_settings,
    stamp_files,
    would_be_found,
    write_done,
    write_text,
)
from clinrep.artifacts.schema import SPLITS, TABLES
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
    "check_file_word",
    "check_outputs",
    "count_parameters",
    "count_rows",
    "describe_tables",
    "find_model",
    "find_parts",
    "find_runs",
    "fingerprint",
    "fingerprint_file",
    "fingerprint_text",
    "is_temporary",
    "iterate_table",
    "list_recorded",
    "list_tokenizer_files",
    "make_folder",
    "make_lists",
    "read_content",
    "read_done",
    "read_settings",
    "read_table",
    "read_table_file",
    "read_weight_header",
    "remove_leftovers",
    "stamp_files",
    "sync",
    "would_be_found",
    "write_done",
    "write_frames",
    "write_table",
    "write_text",
]
