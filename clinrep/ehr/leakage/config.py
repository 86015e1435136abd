"""Settings of the leakage audit."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinrep.config import StageConfig, require


@dataclass(frozen=True, kw_only=True)
class LeakageConfig(StageConfig):
    """Settings of `python -m clinrep.ehr.leakage`."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py to audit."""
    source_timelines_dir: str | None = None
    """Finished directory of 00_tokenize.py whose train stays the model learned from, where that is another one."""
    results_dir: dict[str, str] = field(default_factory=dict)
    """Name of your choice -> finished directory of 02_finetune.py or 03_extract_reps.py on it, to check."""
    learn_anew: bool = False
    """Whether to learn the tokenizer anew from the rows of train patients alone and compare; as long as stage 00."""
    clif_dir: str | None = None
    """Where the CLIF tables are now, for learn_anew; null: where the settings of stage 00 say."""

    def __post_init__(self) -> None:
        """Refuse a folder that would not be used."""
        super().__post_init__()
        is_used = self.clif_dir is None or self.learn_anew
        require(is_used, "clif_dir", self.clif_dir, "go with learn_anew", "add --learn_anew true")

    @property
    def reads_changed_runs(self) -> bool:
        """True: an audit looks at what is there, also where it is not what the stage wrote."""
        return True
