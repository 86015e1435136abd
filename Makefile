# Set-up, demo and checks. `make` alone lists them.

PYTHON ?= python3
VENV := .venv/bin/python
TOOLS := .venv/tools
DEMO_CONFIGS := configs/ehr/demo
DEMO_RUN := runs/demo
RISK_CONFIGS := configs/ehr/known_risk
RISK_RUN := runs/known_risk
PAPER_RUN := runs/manuscript_small
# One process a core: small tensors gain little from threads.
TWO_RANKS := OMP_NUM_THREADS=1 $(VENV) -m torch.distributed.run --standalone --nproc_per_node 2
# A file's tests stay in one process, so its fixtures are made once. Slurm and the browser run alone.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadfile
OUTCOMES := in_hospital_death long_length_of_stay icu_admission imv_event

.DEFAULT_GOAL := help
.PHONY: help setup demo readme-figures manuscript known-risk known-risk-zero-shot test test-slurm test-browser drill check format docs lock audit clean-demo

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-20s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed  ## Make .venv and install requirements.txt, when it changed

# The stamp is a copy of what was installed, so a mere change of date installs nothing.
.venv/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than Python 3.11; name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@cmp -s requirements.txt $@ || { $(PYTHON) -m venv .venv && \
	  $(VENV) -m pip install --disable-pip-version-check --requirement requirements.txt; }
	@cp requirements.txt $@

demo: setup  ## Run all five stages on the sample data; safe to repeat
	$(VENV) 00_tokenize.py --config $(DEMO_CONFIGS)/00_tokenize.yaml
	$(VENV) 01_pretrain.py --config $(DEMO_CONFIGS)/01_pretrain.yaml
	@for outcome in $(OUTCOMES); do \
	  set -- 02_finetune.py --config $(DEMO_CONFIGS)/02_finetune.yaml \
	    --outcome $$outcome --output_dir $(DEMO_RUN)/02_finetune/$$outcome; \
	  echo "$(VENV) $$*"; $(VENV) "$$@" || exit; \
	done
	$(VENV) 03_extract_reps.py --config $(DEMO_CONFIGS)/03_extract_reps.yaml
	$(VENV) 04_analyze.py --config $(DEMO_CONFIGS)/04_analyze.yaml
	@echo "$(DEMO_RUN)/04_analyze/report.html"

manuscript: setup  ## The manuscript's study, small: two simulated sites and the sample (docs/manuscript.md); safe to repeat
	$(VENV) -m clinrep.ehr.simulate --num_stays 4000 --seed 1 --output_dir $(PAPER_RUN)/source/simulate
	$(VENV) -m clinrep.ehr.simulate --num_stays 3000 --seed 2 --site all_shifts --output_dir $(PAPER_RUN)/second/simulate
	$(VENV) -m clinrep.slurm study configs/ehr/manuscript_small/study.yaml --cluster local --max_parallel 2
	@printf '%s\n' $(PAPER_RUN)/source/04_analyze/report.html $(PAPER_RUN)/sample/04_analyze/report.html

readme-figures:  ## Copy the README's figures from the reports of `make demo` and `make manuscript`
	cp $(DEMO_RUN)/04_analyze/figures/token_embeddings.png docs/images/embeddings.png
	cp $(PAPER_RUN)/source/04_analyze/figures/local_fine_tuning_second.png docs/images/local_fine_tuning.png

known-risk: setup  ## Models beside the best possible prediction, on simulated stays (docs/performance.md)
	$(VENV) -m clinrep.ehr.simulate --num_stays 90000 --seed 43 --output_dir $(RISK_RUN)/simulate
	$(VENV) 00_tokenize.py --config $(RISK_CONFIGS)/00_tokenize.yaml
	$(TWO_RANKS) 01_pretrain.py --config $(RISK_CONFIGS)/01_pretrain.yaml
	@printf '%s\n' $(OUTCOMES) | OMP_NUM_THREADS=1 xargs -P 2 -I OUTCOME $(VENV) 02_finetune.py \
	  --config $(RISK_CONFIGS)/02_finetune.yaml --outcome OUTCOME --output_dir $(RISK_RUN)/02_finetune/OUTCOME
	$(TWO_RANKS) 03_extract_reps.py --config $(RISK_CONFIGS)/03_extract_reps.yaml
	$(VENV) -m clinrep.ehr.known_risk --config $(RISK_CONFIGS)/report.yaml
	@echo "$(RISK_RUN)/report/report.md"

known-risk-zero-shot: known-risk  ## The same with zero-shot prediction, half an hour more
	$(TWO_RANKS) 03_extract_reps.py --config $(RISK_CONFIGS)/03_zero_shot.yaml
	$(VENV) -m clinrep.ehr.known_risk --config $(RISK_CONFIGS)/report.yaml \
	  --zero_shot_dir $(RISK_RUN)/03_zero_shot --output_dir $(RISK_RUN)/report_zero_shot
	@echo "$(RISK_RUN)/report_zero_shot/report.md"

test: setup  ## Run every test but the drills and those on a Slurm
	$(TWO_AT_A_TIME) -m "not drill and not slurm and not browser"

test-slurm: setup  ## The sbatch files and grids on a private Slurm (root, Debian packages); several minutes
	$(VENV) -m pytest -m slurm -rA tests/slurm

test-browser: setup  ## The report in a real browser (Debian's chromium; root, where it is missing)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(VENV) -m pytest -m browser -rA tests/browser

drill: setup  ## Kill stages at random moments and compare what comes out, and run whole grids here; several minutes
	$(TWO_AT_A_TIME) -m drill -rA

check: setup  ## Before a commit: format, lint, types and the fast tests
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(VENV) -m mypy clinrep $(wildcard 0*.py)
	$(TWO_AT_A_TIME) -m "not slow and not slurm and not browser"

format: setup  ## Format the code and mend what ruff can
	$(VENV) -m ruff format .
	$(VENV) -m ruff check --fix .

# What locks and audits requirements.txt has an environment of its own, so that requirements.txt stays short.
$(TOOLS)/.installed: tools/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tools/requirements.txt
	@cp tools/requirements.txt $@

lock: $(TOOLS)/.installed  ## Write requirements.lock from requirements.txt: every package with hashes (UPGRADE=--upgrade: the newest)
	$(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) \
	  --custom-compile-command "make lock" --output-file requirements.lock requirements.txt

audit: $(TOOLS)/.installed  ## Known holes in what requirements.lock pins, by pip-audit; says so where its data cannot be had
	@$(TOOLS)/bin/python tools/audit.py $(TOOLS)/bin/pip-audit requirements.lock $(AUDIT_FLAGS)

docs: setup  ## Write docs/data.md anew from the schemas in clinrep/artifacts
	$(VENV) -m clinrep.artifacts > docs/data.md.tmp
	mv docs/data.md.tmp docs/data.md

clean-demo:  ## Remove what `make demo` wrote
	rm -rf $(DEMO_RUN)
