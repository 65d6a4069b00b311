"""Results: the record of one run, the store of records, the published numbers."""

from results.record import FINAL, STATUSES, Record, RecordError
from results.store import Plan, Store, Summary

__all__ = ["FINAL", "STATUSES", "Plan", "Record", "RecordError", "Store", "Summary"]
