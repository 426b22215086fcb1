"""Import of public data sets by a mapping: Hugging Face folders, JSONL, JSON, CSV, Parquet and Arrow."""

from lockgate.exchanges.importing._faults import RowFault
from lockgate.exchanges.importing._importer import DataImport, import_data, inspect_data
from lockgate.exchanges.importing._report import ImportReport
from lockgate.exchanges.importing._source import DataFile, Source, open_source

__all__ = [
    "DataFile",
    "DataImport",
    "ImportReport",
    "RowFault",
    "Source",
    "import_data",
    "inspect_data",
    "open_source",
]
