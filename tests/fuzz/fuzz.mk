# Fuzzing: `make fuzz`. Included by the Makefile; CONTRIBUTING.md says how to add a harness.
#
# FUZZ_SECONDS of each harness (60; 20 in the tests), FUZZ_JOBS at a time; RUNS=N inputs each instead (with FUZZ_SECONDS: whichever comes
# first), counted in bench/results/; FUZZ="yaml npy" some of them.
FUZZ_SECONDS ?= $(if $(RUNS),0,$(if $(filter fuzz,$(MAKECMDGOALS)),60,20))
FUZZ_JOBS ?= $(JOBS)
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BIN := $(BUILD)/fuzz/tests/fuzz

ifeq ($(MODE),fuzz)
$B/tests/fuzz/fuzz_%: $B/tests/fuzz/fuzz_%.o $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(filter-out -ldnnl,$(LIBS))
endif

fuzzers: ## the harnesses of tests/fuzz into build/fuzz/, with clang
	@$(MAKE) --no-print-directory MODE=fuzz $(FUZZERS:%=$(FUZZ_BIN)/fuzz_%)

fuzz: deps-test ## fuzz every parser of foreign bytes: FUZZ_SECONDS=60 each, or RUNS=10000000 inputs; FUZZ="yaml npy" picks
	@$(MAKE) --no-print-directory -j$(JOBS) fuzzers
	@tests/fuzz/fuzz.py run $(FUZZ_BIN) --jobs $(FUZZ_JOBS) --seconds $(FUZZ_SECONDS) \
	  $(if $(RUNS),--runs $(RUNS) --results bench/results) $(FUZZ)

fuzz-corpus: fuzzers ## keep what was found: the smallest set of inputs that reaches as much, into tests/fuzz/corpus/
	@tests/fuzz/fuzz.py merge $(FUZZ_BIN) $(FUZZ)

.PHONY: fuzzers fuzz fuzz-corpus
