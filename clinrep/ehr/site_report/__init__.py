"""What a second site's data look like to a frozen tokenizer, before any training."""

from clinrep.ehr.site_report.compare import compare_sites
from clinrep.ehr.site_report.page import write_site_report
from clinrep.ehr.site_report.rules import write_rule
from clinrep.ehr.site_report.summary import summarize

__all__ = ["compare_sites", "summarize", "write_rule", "write_site_report"]
