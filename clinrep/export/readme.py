"""README.md of a bundle: what is in it, how to use it, and what is and is not protected."""

from __future__ import annotations

from clinrep.export.bundle import Bundle
from clinrep.export.config import ExportConfig

_TEXT = """# A model exported with clinrep

{notice}Nothing in here is of a single patient: no stay, time, prediction, representation or log. Every file is in
`MANIFEST.json` with its SHA-256, and so is what was hidden and what was left out. Before it leaves, let whoever is
responsible for the data agree; this bundle is a proposal, not a permission.

| folder | what |
| --- | --- |
| `backbone/` | the pretrained transformer; give the bundle to stages 01 to 03 as `--backbone_dir` |
| `classifiers/` | fine-tuned models, if any; give one's folder as `--classifier_dir` |
| `tokenizer/` | vocabulary and quantile edges; give it to `00_tokenize.py` as `--tokenizer_dir` |
| `settings/` | settings of every run, without paths, machines and users |
| `scores/`, `tables/`, `model_card.md`, `tripod_ai.md` | aggregate results of stage 04, if any |

```
python 00_tokenize.py --config BUNDLE/tokenizer/config.yaml --tokenizer_dir BUNDLE/tokenizer \\
    --clif_dir YOUR_TABLES --output_dir runs/SITE/00_tokenize
python 03_extract_reps.py --config configs/ehr/03_extract_reps.yaml --backbone_dir BUNDLE \\
    --timelines_dir runs/SITE/00_tokenize --output_dir runs/SITE/03_extract_reps
```

## What was hidden (min_cell_count {least})

{hidden}

- **Words**: a token of fewer than {least} train people is {rare}. Its id and embedding stay, because ids are the rows
  of the embedding. At your site such a word is unknown (UNK). Within a kind, ids follow the alphabet, so the
  place of a blanked word tells between which two words it stood.
- **Edges**: a quantile edge is here only if {least} train values of {least} people lie on each side of it (of values
  tied with the edge, see docs/export.md), and a category only if it has {least} values per bin. Values of a category
  without edges become UNK. A hidden edge is replaced by its neighbour, so the two bins it parted are one: under the
  first edge shown a value is Q0, from the last one on it is the highest bin. Edges are {digits}.
- **Counts** are rounded to multiples of {least}; those that would give a hidden one away are hidden too.
- **Scores** that rest on fewer than {least} test patients with the outcome, or without it, are empty.

## What was not assessed

Weights can remember what they were trained on. Whether single patients can be recognised from these (membership
inference, extraction by sampling) was **not assessed**, and no noise was added in training (no differential privacy).
"""


def write_readme(bundle: Bundle, config: ExportConfig) -> None:
    """Write README.md, with what was hidden in this bundle."""
    digits = config.edge_digits
    hidden = [f"- {what}: {count:,}" for what, count in bundle.suppressed.items()]
    hidden += [f"- left out `{name}`: {reason}" for name, reason in bundle.left_out.items()]
    text = _TEXT.format(
        notice=f"{config.notice}\n\n" if config.notice else "",
        least=config.min_cell_count,
        hidden="\n".join(hidden),
        rare="called RARE_<token_id>" if config.rare_tokens == "blank" else "kept by its name (rare_tokens: keep)",
        digits="as they were learned" if digits is None else f"rounded down to {digits} significant digits",
    )
    bundle.write_text("README.md", text)
