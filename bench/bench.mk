# Measuring: `make bench` and `make scoreboard`. Included by the Makefile.
#
# MODEL=... picks models of bench/models.json; BENCH_ARGS is passed to bench/run.py, for example
# BENCH_ARGS=--no-peer (kd alone: needs no PyTorch).
BENCH_BIN := $B/bench/kd_bench
BENCH_OBJ := $(patsubst %.c,$B/%.o,$(wildcard bench/*.c))
PEERS_VENV := $(BUILD)/peers/venv
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
	  --command 'make bench$(if $(MODEL), MODEL="$(strip $(MODEL))")' $(BENCH_ARGS) $(MODEL)

peak: $(BENCH_BIN) ## what this machine can do: GFLOP/s on registers, memory GB/s
	@$(BENCH_BIN) peak | jq .

bench-image: deps $(BENCH_BIN) all ## the image pipeline from nothing: time, teacher's accuracy, into bench/results/
	@bench/pipeline.py --bench $(BENCH_BIN) --folder $(BUILD)/bench/image

bench-commits: all ## what the sync of LMDB's meta page costs: the default beside MDB_NOMETASYNC, into bench/results/
	@bench/commits.py $B $(abspath $(BUILD))/bench/commits

kernels: $(BENCH_BIN) ## matrix products and convolutions alone against the peak
	@$(BENCH_BIN) kernels

store-levels: deps ## what zstd levels, filters and dictionaries change in a store's bytes, into bench/results/
	@bench/store_levels.py --json bench/results

scoreboard: ## bench/results/*.json to docs/scoreboard.md; prints the figures that fall short
	@bench/scoreboard.sh

.PHONY: bench bench-run bench-image bench-commits kernels store-levels peak scoreboard deps-bench
