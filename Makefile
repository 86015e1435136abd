# Set-up, demo and checks. `make` alone lists them.

PYTHON ?= python3
VENV := .venv/bin/python
DEMO_CONFIGS := configs/ehr/demo
DEMO_RUN := runs/demo
RISK_CONFIGS := configs/ehr/known_risk
RISK_RUN := runs/known_risk
PAPER_RUN := runs/manuscript_small
PAPER_OUTCOMES := in_hospital_death long_length_of_stay
PAPER_SHARES := 0.1 0.3 1
# The manuscript's settings of stage $(1), then what a study on 2 cores does otherwise.
as_in_paper = $(1).py --config configs/ehr/manuscript/$(1).yaml --config configs/ehr/manuscript_small/$(1).yaml
# One process a core: small tensors gain little from threads.
TWO_RANKS := OMP_NUM_THREADS=1 $(VENV) -m torch.distributed.run --standalone --nproc_per_node 2
# A file's tests stay in one process, so its fixtures are made once. The drills, Slurm and the browser run alone.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadfile
OUTCOMES := in_hospital_death long_length_of_stay icu_admission imv_event

.DEFAULT_GOAL := help
.PHONY: help setup demo readme-figures manuscript manuscript-classifiers known-risk known-risk-zero-shot test test-slurm test-browser drill check format docs clean-demo

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
	$(VENV) $(call as_in_paper,00_tokenize) --clif_dir $(PAPER_RUN)/source/simulate --output_dir $(PAPER_RUN)/source/00_tokenize
	$(VENV) $(call as_in_paper,00_tokenize) --clif_dir $(PAPER_RUN)/second/simulate --train_fraction 0.4 \
	  --tokenizer_dir $(PAPER_RUN)/source/00_tokenize --output_dir $(PAPER_RUN)/second/00_tokenize
	$(VENV) $(call as_in_paper,00_tokenize) --clif_dir sample_data/clif_demo --output_dir $(PAPER_RUN)/sample/00_tokenize
	for site in source sample; do $(TWO_RANKS) $(call as_in_paper,01_pretrain) \
	  --timelines_dir $(PAPER_RUN)/$$site/00_tokenize --output_dir $(PAPER_RUN)/$$site/01_pretrain || exit; done
	@$(MAKE) --no-print-directory manuscript-classifiers
	for site in source second sample; do $(TWO_RANKS) $(call as_in_paper,03_extract_reps) \
	  --timelines_dir $(PAPER_RUN)/$$site/00_tokenize --output_dir $(PAPER_RUN)/$$site/03_extract_reps \
	  --backbone_dir $(PAPER_RUN)/$$([ $$site = sample ] && echo sample || echo source)/01_pretrain || exit; done
	$(VENV) $(call as_in_paper,04_analyze) --output_dir $(PAPER_RUN)/04_analyze $(foreach site,source second,\
	  --timelines_dir.$(site) $(PAPER_RUN)/$(site)/00_tokenize --predictions_dir.$(site) $(PAPER_RUN)/$(site)/02_finetune \
	  --representations_dir.$(site) $(PAPER_RUN)/$(site)/03_extract_reps) \
	  --published_sites.mimic source --published_sites.ucmc second \
	  --data_notice "Two simulated hospitals (python -m clinrep.ehr.simulate): no number here is clinical evidence."
	$(VENV) $(call as_in_paper,04_analyze) --output_dir $(PAPER_RUN)/sample/04_analyze \
	  --timelines_dir.sample $(PAPER_RUN)/sample/00_tokenize --predictions_dir.sample $(PAPER_RUN)/sample/02_finetune \
	  --representations_dir.sample $(PAPER_RUN)/sample/03_extract_reps --logistic_regression.c 0.01 \
	  --data_notice "$$(sed -n '/^data_notice/,$$p' $(DEMO_CONFIGS)/04_analyze.yaml | tail -n +2 | tr -s ' \n' ' ')"
	@printf '%s\n' $(PAPER_RUN)/04_analyze/report.html $(PAPER_RUN)/sample/04_analyze/report.html

# Stage 02 of `make manuscript`, two runs at a time: where the backbones were made; then, at the second site, the source's
# classifiers as they are, and every start at every share of local patients. With URT for Figure 4: of death alone.
manuscript-classifiers: RUN_EACH = OMP_NUM_THREADS=1 xargs -P 2 -L 1 $(VENV) $(call as_in_paper,02_finetune)
manuscript-classifiers:
	for site in source sample; do \
	  at="--timelines_dir $(PAPER_RUN)/$$site/00_tokenize --backbone_dir $(PAPER_RUN)/$$site/01_pretrain"; \
	  at="$$at --risk_over_time [test] $$([ $$site = source ] || echo --metric_for_best loss)"; \
	  to=$(PAPER_RUN)/$$site/02_finetune; \
	  for outcome in $(PAPER_OUTCOMES); do echo "$$at --outcome $$outcome --output_dir $$to/$$outcome"; done; \
	  echo "$$at --outcome in_hospital_death --random_truncation true --output_dir $$to/random_truncation=true/in_hospital_death"; \
	done | $(RUN_EACH)
	at="--timelines_dir $(PAPER_RUN)/second/00_tokenize"; from=$(PAPER_RUN)/source; to=$(PAPER_RUN)/second/02_finetune; \
	at_urt="$$at --random_truncation true --outcome in_hospital_death"; \
	{ for outcome in $(PAPER_OUTCOMES); do \
	    echo "$$at --outcome $$outcome --classifier_dir $$from/02_finetune/$$outcome --training_fraction 0" \
	      "--risk_over_time [test] --output_dir $$to/training_fraction=0/$$outcome"; \
	    for share in $(PAPER_SHARES); do \
	      each="$$at --outcome $$outcome --training_fraction $$share --output_dir $$to"; \
	      echo "$$each/start=scratch/training_fraction=$$share/$$outcome --backbone_dir $$from/01_pretrain --from_scratch true"; \
	      echo "$$each/start=backbone/training_fraction=$$share/$$outcome --backbone_dir $$from/01_pretrain"; \
	      echo "$$each/start=classifier/training_fraction=$$share/$$outcome --classifier_dir $$from/02_finetune/$$outcome"; \
	    done; \
	  done; \
	  echo "$$at_urt --classifier_dir $$from/02_finetune/random_truncation=true/in_hospital_death --training_fraction 0" \
	    "--risk_over_time [test] --output_dir $$to/random_truncation=true,training_fraction=0/in_hospital_death"; \
	} | $(RUN_EACH)
readme-figures:  ## Copy the README's figure from the report of `make demo`
	cp $(DEMO_RUN)/04_analyze/figures/token_embeddings.png docs/images/embeddings.png

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

test-slurm: setup  ## Grids here, and the sbatch files on a private Slurm (root, Debian packages); several minutes
	$(VENV) -m pytest -m slurm -rA tests/slurm

test-browser: setup  ## The report in a real browser (Debian's chromium; root, where it is missing)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(VENV) -m pytest -m browser -rA tests/browser

drill: setup  ## Kill training runs at random moments and compare what comes out; several minutes
	$(VENV) -m pytest -m drill -rA

check: setup  ## Before a commit: format, lint, types and the fast tests
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(VENV) -m mypy clinrep $(wildcard 0*.py)
	$(TWO_AT_A_TIME) -m "not slow and not slurm and not browser"

format: setup  ## Format the code and mend what ruff can
	$(VENV) -m ruff format .
	$(VENV) -m ruff check --fix .

docs: setup  ## Write docs/data.md anew from the schemas in clinrep/artifacts
	$(VENV) -m clinrep.artifacts > docs/data.md.tmp
	mv docs/data.md.tmp docs/data.md

clean-demo:  ## Remove what `make demo` wrote
	rm -rf $(DEMO_RUN)
