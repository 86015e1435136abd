"""A simulated hospital: CLIF 2.0 tables of any size in which the best possible prediction is known.

    python -m clinrep.ehr.simulate --num_stays 20000 --site reference --seed 42 --output_dir DIR

writes clif_<table>.parquet with the columns and types of sample_data/clif_demo, and truth.parquet. It is
for those without access to records, for benchmarks, and for tests with a known answer. Names and values
look like MIMIC's; no number was estimated from a patient.

The course of illness (chain.py). Each stay is a Markov chain in hourly steps. In hour h, the time
[admission + h h, admission + (h + 1) h), it has a severity s in 0..4, which no table shows, and a place c
(ed, ward, stepdown, icu, icu_imv: in the ICU on invasive ventilation), which the tables show exactly. Its
group g (four age groups, two sexes, three kinds of admission) is known at admission.

    P(s0, c0 | g)           = first_severity[kind][s0] exp(shift s0) / Z * first_place[kind][c0]
    P(leaves alive | s, c)  = discharge[c][s]
    P(dies | s, g)          = die[s] * age_die[g]
    P(s + 1 | s, g, stays)  = worsen[s] * age_worsen[g] * sex_worsen[g]
    P(s - 1 | s, g, stays)  = recover[s] * age_recover[g] * kind_recover[g]
    P(c' | c, s, stays)     = move[c, c'][s], independent of the step in severity

Whoever leaves in hour h was last seen in hour h - 1, and the discharge falls on a uniform minute of hour h.

What is charted (catalog.yaml, signals.py, charts.py). In each hour, each panel of channels is charted
with probability min(0.95, rate[c] growth^s), independently given the state; a ventilator check stands in
the first hour of every ventilation and an oxygen check in the first hour after it. With z standard normal, a
channel's value is

    center + slope s + spread z,    or    center slope^s exp(spread z),

written as the nearest value of its grid, the ends of which take what lies beyond. Values are drawn from,
and later judged by, the probability of the grid's cell, so the rounding is part of the law. GCS and
Braden totals are sums of what is charted; starts, stops and orders of infusions follow from the charted
doses. All else (minutes, collection times of labs, names of units, race, language, ids) is independent
of the severity. An event lies at a minute of its own hour, between admission and discharge; vitals,
assessments and checks of an hour share their minute. The event time of a lab is lab_result_dttm.

The two truths (truth.py), in truth.parquet, one row a stay and outcome, defined as in ehr/outcomes.py and
asked at 24 h after admission: label; probability_given_state, that of the outcome given group, severity and
place in hour 23 (death, ICU and ventilation: the solution of x = hits + P x; length of stay: staying 144 more
hours and leaving neither before nor at minute 0 of hour 168, which is exactly 7 days: the row sums of
P^144 (1 - (1 - P 1) / 60), with P restricted to the stay); and
probability_given_tables, its mean over the severities, weighted by the forward filter over what the
tables show of hours 0 to 23. No model of these 24 hours can do better than the latter. All three are
null where the stay was over before, or the ICU or the ventilation was already seen.

The sites (sites.py). Each differs from `reference` in one way; all_shifts in all five.

    si_units            nine laboratory values in SI units, rounded there; temp_c wrongly in Fahrenheit
    missing_categories  sixteen channels are never charted, nor what is made of them: lactate, troponin, albumin,
                        blood gases, MAP, RASS, ...
    sparse_charting     every charting probability is halved
    older_sicker        older patients, more emergencies, odds of arriving at severity s times exp(0.25 s)
    extra_table         also medication_admin_intermittent; the others have the nine tables of the sample

Shards of 1,000 stays depend on seed, site and shard number alone: the full shards of a smaller number
of stays are the first shards of a larger one. A patient's stays lie in one shard and never overlap;
whoever comes after a death is another patient. Stays of one patient share age and sex, nothing else.
"""
