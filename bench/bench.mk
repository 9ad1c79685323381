# Measuring: `make bench` and `make scoreboard`. Included by the Makefile.
#
# MODEL=... picks models of bench/models.json, PRECISION=bf16 the products of both sides; BENCH_ARGS is passed to bench/run.py, for example
# BENCH_ARGS=--no-peer (kd alone: needs no PyTorch).
BENCH_BIN := $B/bench/kd_bench
BENCH_OBJ := $(patsubst %.c,$B/%.o,$(wildcard bench/*.c))
PEERS_VENV := $(BUILD)/peers/venv
TEXT_PYTHON := $(BUILD)/peers/text-venv/bin/python
DEPS_BENCH := python3 python3-venv python3-dev g++
BENCH_PYTHON := $(if $(findstring --no-peer,$(BENCH_ARGS)),python3,$(PEERS_VENV)/bin/python)

$(BENCH_BIN): $(BENCH_OBJ) $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(PEERS_VENV)/ready: bench/peers/requirements.txt bench/peers/setup.sh
	@bench/peers/setup.sh $(PEERS_VENV)
	@touch $@

deps-bench:
	$(call install_packages,$(DEPS_BENCH))

bench: deps deps-bench ## training speed beside PyTorch (own virtual environment, downloads it once), into bench/results/
	@$(MAKE) --no-print-directory -j$(JOBS) bench-run

bench-run: $(BENCH_BIN) $(if $(findstring --no-peer,$(BENCH_ARGS)),,$(PEERS_VENV)/ready)
	@$(BENCH_PYTHON) bench/run.py --bench $(BENCH_BIN) --python $(BENCH_PYTHON) --scratch $(BUILD)/bench \
	  --command 'make bench$(if $(PRECISION), PRECISION=$(PRECISION))$(if $(MODEL), MODEL="$(strip $(MODEL))")' \
	  $(if $(PRECISION),--precision $(PRECISION)) $(BENCH_ARGS) $(MODEL)

# Another Python with torch and safetensors may stand in: PEERS_PYTHON=...
PEERS_PYTHON ?= $(PEERS_VENV)/bin/python
PEERS_READY := $(if $(filter $(PEERS_VENV)/%,$(PEERS_PYTHON)),deps-bench $(PEERS_VENV)/ready)

parity: deps $(PEERS_READY) $(BENCH_BIN) all ## 50 steps of whole runs beside PyTorch: do the losses agree? Into bench/results/
	@$(PEERS_PYTHON) bench/peers/torch_parity.py $B $(BUILD)/bench/parity $(BENCH_ARGS)

bench-many: deps $(PEERS_READY) $(BENCH_BIN) all ## eight students in one pass beside eight runs of PyTorch, into bench/results/
	@bench/many.py many --bin $B --python $(PEERS_PYTHON) --scratch $(BUILD)/bench/many $(BENCH_ARGS)

bench-sweep: deps $(PEERS_READY) $(BENCH_BIN) ## five models at batch 16 to 1024 on 1 and 2 threads beside PyTorch, into bench/results/ (half an hour; MODEL=... does a part)
	@bench/sweep.py --bench $(BENCH_BIN) --python $(PEERS_PYTHON) --scratch $(BUILD)/bench/sweep $(BENCH_ARGS) $(MODEL)

bench-stall: deps $(BENCH_BIN) all ## students trained from the store beside the same from memory, into bench/results/
	@bench/many.py stall --bin $B --scratch $(BUILD)/bench/many $(BENCH_ARGS)

peak: $(BENCH_BIN) ## what this machine can do: GFLOP/s on registers, memory GB/s
	@$(BENCH_BIN) peak | jq .

bench-image: deps $(BENCH_BIN) all ## the image pipeline from nothing: time, teacher's accuracy, into bench/results/
	@bench/pipeline.py --bench $(BENCH_BIN) --folder $(BUILD)/bench/image

bench-commits: all ## what the sync of LMDB's meta page costs: the default beside MDB_NOMETASYNC, into bench/results/
	@bench/commits.py $B $(abspath $(BUILD))/bench/commits

bench-promise: deps $(BENCH_BIN) ## what the same bits for any number of threads cost beside free order, into bench/results/
	@bench/promise.py $(BENCH_BIN) $(BENCH_ARGS) $(MODEL)

bench-shuffle: deps all ## what shuffling within windows costs a student beside a full shuffle, into bench/results/
	@bench/shuffle.py $B $(BUILD)/bench/shuffle

bench-audit: deps all ## does kd-audit find flipped labels and planted copies, and does training without them help? Into bench/results/
	@nice -n 19 /usr/bin/python3 bench/audit.py $B $(BUILD)/bench/audit $(BENCH_ARGS)

bench-export: deps all $(BENCH_BIN) ## MiniLM and SmolLM2 through kd-export in sentence-transformers, transformers, ONNX Runtime and llama.cpp, into bench/results/
	$(call install_packages,python3-venv python3-dev g++ wordnet-base)
	@bench/peers/setup.sh $(BUILD)/peers/text-venv requirements-text
	@$(TEXT_PYTHON) bench/export.py $B $(BUILD)/bench/export bench/results $(BENCH_ARGS)
	@$(TEXT_PYTHON) bench/export_language.py $B $(BENCH_BIN) $(BUILD)/bench/export bench/results $(BENCH_ARGS)

bench-precision: deps all ## what bf16 products cost a student in accuracy beside f32, into bench/results/
	@bench/precision.py $B $(BUILD)/bench/precision

bench-eval: deps all ## what kd-eval takes beyond the forward passes of 20 students on 10,000 rows, into bench/results/
	@bench/eval.py $B $(BUILD)/bench/eval

bench-search: $(SEARCH)/results.json ## what the students of make search keep of their teacher's MRR@10, into bench/results/
	@bench/search.py $<

kernels: $(BENCH_BIN) ## matrix products and convolutions alone against the peak
	@$(BENCH_BIN) kernels

store-levels: deps ## what zstd levels, filters and dictionaries change in a store's bytes, into bench/results/
	@bench/store_levels.py --json bench/results

# ---- the store ---------------------------------------------------------------------------------
#
# Real logits: Fashion-MNIST's teacher (the image pipeline's first stages) and a language model's over text.
STORE_PYTHON := $(BUILD)/peers/store-venv/bin/python
STORE_FASHION := $(BUILD)/bench/fashion
STORE_SMOLLM := $(BUILD)/bench/smollm
STORE_BENCH := --bench $(BENCH_BIN) --scratch $(BUILD)/bench --fashion $(STORE_FASHION)/fashion.kd
DEPS_STORE := python3 python3-venv python3-dev g++ wordnet-base

$(BUILD)/peers/store-venv/ready: bench/peers/requirements-store.txt bench/peers/requirements-store-alone.txt bench/peers/setup.sh
	@bench/peers/setup.sh $(@D) requirements-store
	@touch $@

$(STORE_SMOLLM)/logits.npy: bench/peers/smollm_logits.py | $(BUILD)/peers/store-venv/ready
	@$(STORE_PYTHON) $< $(@D)
	@touch $@

bench-store-ready: deps $(BENCH_BIN) all # what all of them need
	$(call install_packages,$(DEPS_STORE))
	@$(MAKE) --no-print-directory $(BUILD)/peers/store-venv/ready
	@[ -f $(STORE_FASHION)/dump.json ] || $(MAKE) --no-print-directory IMAGE=$(STORE_FASHION) $(STORE_FASHION)/dump.json

bench-store-size: bench-store-ready ## bytes a position of every encoding on real logits, beside public systems (6 GB of logits, made once)
	@$(MAKE) --no-print-directory $(STORE_SMOLLM)/logits.npy
	@$(STORE_PYTHON) bench/store_size.py $(STORE_BENCH) --smollm $(STORE_SMOLLM) $(BENCH_ARGS)

bench-store-speed: bench-store-ready ## rows a second out of a store, beside the ways of Python trainers
	@$(MAKE) --no-print-directory $(STORE_SMOLLM)/logits.npy
	@$(STORE_PYTHON) bench/store_speed.py $(STORE_BENCH) --smollm $(STORE_SMOLLM) $(BENCH_ARGS)

bench-store-verify: bench-store-ready ## GB/s of kd-store verify
	@$(STORE_PYTHON) bench/store_passes.py verify $(STORE_BENCH) --teacher $(STORE_FASHION)/teacher $(BENCH_ARGS)

bench-store-rss: bench-store-ready ## peak memory of dump, verify and loader at 1 and 20 times the rows
	@$(STORE_PYTHON) bench/store_passes.py rss $(STORE_BENCH) --teacher $(STORE_FASHION)/teacher $(BENCH_ARGS)

bench-dump: bench-store-ready ## what a dump takes beyond the teacher's own time
	@$(STORE_PYTHON) bench/store_passes.py dump $(STORE_BENCH) --teacher $(STORE_FASHION)/teacher $(BENCH_ARGS)

bench-store: bench-store-size bench-store-speed bench-store-verify bench-store-rss bench-dump ## all figures of the store

encoding-study: deps bench-store-ready ## which encodings of a language model's logits teach as well as all of them? 75 students, into bench/results/ (an hour)
	@$(MAKE) --no-print-directory $(STORE_SMOLLM)/logits.npy
	@$(STORE_PYTHON) bench/encoding_study.py $B $(BUILD)/bench/encodings bench/results --smollm $(STORE_SMOLLM) $(BENCH_ARGS)

.PHONY: encoding-study

# ---- texts -------------------------------------------------------------------------------------
#
# Another Python with tokenizers and the package of MiniLM may stand in: TEXT_PYTHON=...
TEXT_VENV := $(BUILD)/peers/text-venv
TEXT_PYTHON ?= $(TEXT_VENV)/bin/python
TEXT_READY := $(if $(filter $(TEXT_VENV)/%,$(TEXT_PYTHON)),deps-bench $(TEXT_VENV)/ready)
DEPS_TEXT := wordnet-base

$(TEXT_VENV)/ready: bench/peers/requirements-text.txt bench/peers/requirements-text-alone.txt bench/peers/setup.sh
	@bench/peers/setup.sh $(@D) requirements-text
	@touch $@

deps-text:
	$(call install_packages,$(DEPS_TEXT))

tokenizer-parity: deps deps-text $(TEXT_READY) $(BENCH_BIN) ## are kd's token ids those of PyPI's tokenizers? 1 M random strings, every code point, 10 MB of text, into bench/results/
	@$(TEXT_PYTHON) bench/peers/tokenizer_parity.py parity --bench $(BENCH_BIN) --scratch $(BUILD)/bench/tokenizer $(BENCH_ARGS)

bench-tokenizer: deps deps-text $(TEXT_READY) $(BENCH_BIN) ## MB/s of kd's tokenizer beside PyPI's tokenizers, into bench/results/
	@$(TEXT_PYTHON) bench/peers/tokenizer_parity.py speed --bench $(BENCH_BIN) --scratch $(BUILD)/bench/tokenizer $(BENCH_ARGS)

bench-encoder: deps deps-text $(TEXT_READY) $(BENCH_BIN) ## an encoder's passes and training steps beside PyTorch and ONNX Runtime, into bench/results/ (PART=... does one part)
	@$(TEXT_PYTHON) bench/encoder.py --bench $(BENCH_BIN) --scratch $(BUILD)/bench/encoder $(BENCH_ARGS) $(PART)

bench-language: deps deps-text $(TEXT_READY) $(BENCH_BIN) ## a language model's training steps beside PyTorch, into bench/results/ (PART=train does one part)
	@$(TEXT_PYTHON) bench/language.py --bench $(BENCH_BIN) --scratch $(BUILD)/bench/language $(BENCH_ARGS) $(PART)

encoder-parity: deps deps-text $(TEXT_READY) all ## are kd's embeddings MiniLM's of sentence-transformers? 10,000 texts, into bench/results/
	@$(TEXT_PYTHON) bench/teacher_parity.py $B $(BUILD)/bench/encoder bench/results $(BENCH_ARGS)

decoder-parity: deps deps-text $(TEXT_READY) $(BENCH_BIN) ## are kd's logits of SmolLM2-135M those of transformers? 8,192 positions, into bench/results/
	@$(TEXT_PYTHON) bench/peers/decoder_parity.py --bench $(BENCH_BIN) --scratch $(BUILD)/bench/decoder $(BENCH_ARGS)

bench-decoder: deps deps-text $(TEXT_READY) $(BENCH_BIN) all ## a language model's pass with logits beside llama.cpp and PyTorch, into bench/results/ (PART="llama f32 bf16" picks)
	@$(TEXT_PYTHON) bench/decoder.py --bin $B --scratch $(BUILD)/bench/decoder $(BENCH_ARGS) $(PART)

bench-long-texts: deps deps-text all ## a language model's store of 10 M tokens: memory of dump and training, stall, into bench/results/ (an hour)
	@$(TEXT_PYTHON) bench/long_texts.py --bin $B --scratch $(BUILD)/bench/long-texts $(BENCH_ARGS)

.PHONY: bench-long-texts deps-text tokenizer-parity bench-tokenizer bench-encoder bench-language encoder-parity decoder-parity bench-decoder

scoreboard: ## bench/results/*.json to docs/scoreboard.md; prints the figures that fall short
	@bench/scoreboard.sh

.PHONY: bench-store bench-store-ready bench-store-size bench-store-speed bench-store-verify bench-store-rss bench-dump
.PHONY: parity bench-many bench-sweep bench-stall bench bench-run bench-image bench-commits bench-promise bench-precision bench-shuffle bench-audit bench-eval bench-export bench-search kernels store-levels peak scoreboard deps-bench
