# kd's only makefile of the build. `make help` lists what it can do.
MODE ?= release
BUILD ?= build
B := $(BUILD)/$(MODE)
PREFIX ?= /usr/local
V ?= 0
Q := $(if $(filter 0,$(V)),@,)
ifeq ($(MODE),tsan)
CC := clang
endif
ifeq ($(origin CC),default)
CC := gcc
endif

# The ladder: a module includes only itself and the modules named here (make dep-check).
MODULES ?= base config gguf codec text store nn data loss model search export teacher exchange train eval audit cli
USES_base := none
USES_config := base
USES_cli := base config
USES_gguf := base
USES_codec := base config
USES_text := base gguf
USES_store := base config codec
USES_nn := base config
USES_data := base config codec store text
USES_loss := base config nn
USES_search := base config nn loss model text
USES_model := base config nn loss gguf
USES_export := base config text nn loss model gguf
USES_teacher := base config codec text nn model search store data
USES_exchange := base config codec nn model store data
USES_train := base config codec nn loss model store data text
USES_eval := base config codec text nn loss model store data train
USES_audit := base config codec nn store data eval

# Fuzzing needs what reads foreign bytes, with clang and without OpenMP.
OPENMP := -fopenmp
ifeq ($(MODE),fuzz)
CC := clang
OPENMP :=
MODULES := base config gguf codec text store data model exchange
UNUSED := lib/data/loader.c
endif

TOOLS := kd kd-dump kd-train kd-eval kd-audit kd-report kd-run kd-export kd-store
LIBS := -ldnnl -llmdb -lzstd -lyaml -ljansson -lxxhash -lutf8proc -lpng -ljpeg -lprotobuf-c -lz -lm

WARN := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla
OPT_release := -O3 -g -DNDEBUG
OPT_debug := -O1 -g
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all
OPT_tsan := -O1 -g -fsanitize=thread
OPT_fuzz := -Wno-error -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude $(WARN) $(OPT_$(MODE)) $(OPENMP) -fno-math-errno \
  -fno-trapping-math -DKD_MODE='"$(MODE)"' $(CFLAGS)

LIB_SRC := $(filter-out $(UNUSED),$(foreach m,$(MODULES),$(wildcard lib/$m/*.c)))
# A kernel file NAME.simd.c is compiled once per instruction set, its functions suffixed _$(isa).
SIMD_SRC := $(filter %.simd.c,$(LIB_SRC))
ISAS := scalar avx2 avx512 avx512bf16
ISA_scalar :=
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
# What has loops for bf16 instructions; NAME_bf16.simd.c has no others.
BF16_SRC := $(filter lib/nn/panels.simd.c lib/nn/decoder.simd.c %_bf16.simd.c,$(SIMD_SRC))
# Their numbers decide bytes in stores or results: no fused multiply-add, on any instruction set.
EXACT := lib/codec/% lib/data/view.c lib/eval/% lib/gguf/%
# The messages of ONNX files, from the definition that Debian's libonnx-dev has; part of lib/export.
ONNX_PROTO ?= /usr/include/onnx/onnx.proto
ONNX_MESSAGES := $(if $(filter export,$(MODULES)),$B/gen/onnx.pb-c)
LIB_OBJ := $(patsubst %.c,$B/%.o,$(filter-out %.simd.c,$(LIB_SRC))) \
  $(foreach i,$(ISAS),$(patsubst %.simd.c,$B/%.$i.o,$(if $(filter avx512bf16,$i),$(BF16_SRC),$(filter-out %_bf16.simd.c,$(SIMD_SRC))))) \
  $(ONNX_MESSAGES:=.o)
UNIT_TESTS := $(patsubst %.c,$B/%,$(wildcard tests/unit/test_*.c))
CLI_TESTS := $(wildcard tests/cli/*.sh)
TOOL_BIN := $(TOOLS:%=$B/%)

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: FORCE
.DEFAULT_GOAL := all

all: $(TOOL_BIN) ## build the tools into build/$(MODE)/

$B/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS) $(LIBS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(LIBS)' > $@

$B/%.o: %.c $B/flags
	@mkdir -p $(@D); echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) $(if $(filter $(EXACT),$<),-ffp-contract=off) -MMD -MP -c $< -o $@

$B/gen/onnx.pb-c.c: $(ONNX_PROTO)
	@mkdir -p $(@D); echo "  GEN  $@"
	$(Q)protoc-c -I$(<D) --c_out=$(@D) $<

$B/gen/%.o: $B/gen/%.c $B/flags
	@echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/lib/export/%.o: private ALL_CFLAGS += -I$B/gen
$(patsubst %.c,$B/%.o,$(wildcard lib/export/*.c)): | $B/gen/onnx.pb-c.c

define simd_rule
$B/%.$1.o: %.simd.c $B/flags
	@mkdir -p $$(@D); echo "  CC   $$< ($1)"
	$(Q)$(CC) $(ALL_CFLAGS) $(ISA_$1) -ffp-contract=$$(if $$(filter $(EXACT),$$<),off,fast) -DKD_SIMD=$1 -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call simd_rule,$i)))

$B/libkd.a: $(LIB_OBJ)
	@echo "  AR   $@"; rm -f $@
	$(Q)ar rcs $@ $^

$B/tests/unit/%: $B/tests/unit/%.o $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS) -lcmocka

# A tool of several files keeps the others in a folder of its name.
.SECONDEXPANSION:
$(TOOL_BIN): $B/%: $B/cmd/%.o $$(patsubst %.c,$B/%.o,$$(wildcard cmd/$$*/*.c)) $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# ---- tests ---------------------------------------------------------------------------------

test: deps-test ## install what is missing, build, run all checks and tests; ends with "N passed, N failed"
	@$(MAKE) --no-print-directory -j$(JOBS) all unit-tests fuzzers
	@$(MAKE) --no-print-directory dep-check hdr-check
	@$(MAKE) --no-print-directory run-tests

unit-tests: $(UNIT_TESTS) $B/tests/unit/make_store $B/tests/fault/shim.so $B/tests/fault/damage

$B/tests/fault/damage: $B/tests/fault/damage.o $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# Loaded by LD_PRELOAD into tools of any mode, so without a sanitizer of its own.
$B/tests/fault/shim.so: tests/fault/shim.c
	@mkdir -p $(@D); echo "  LD   $@"
	$(Q)$(CC) -std=c11 $(WARN) -Wno-missing-prototypes -O1 -g -shared -fPIC -o $@ $<

run-tests: all unit-tests $(if $(filter release,$(MODE)),fuzzers) ## run the tests without installing anything; FUZZ_SECONDS=1 for a short run
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/run.sh $B $(UNIT_TESTS) $(CLI_TESTS)

check: all unit-tests ## unit tests only, under a minute
	@tests/run.sh $B $(UNIT_TESTS)

test-full: deps-full ## the tests in release, with clang, under address and thread sanitizers, and in fresh systems (slow)
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/clang CC=clang run-tests
	@$(MAKE) --no-print-directory -j$(JOBS) MODE=asan run-tests
	@$(MAKE) --no-print-directory -j$(JOBS) MODE=tsan run-tests
	@$(MAKE) --no-print-directory fresh

damage: $B/tests/fault/damage ## 4,000 damaged copies of a store, read by kd and by LMDB alone, into bench/results/
	@bench/damage.py --program $< --folder $(BUILD)/bench/damage

fresh: ## `make test` and `make demo` in fresh Debian 12 and 13 systems (as root, by debootstrap)
	tests/fresh.sh bookworm
	tests/fresh.sh trixie

comma := ,
empty :=
sp := $(empty) $(empty)
dep-check: ## a module includes only the modules named in its USES_ line; tools only public headers
	$(Q)bad=0; $(foreach m,$(MODULES),for f in $$(ls lib/$m/*.[ch] 2>/dev/null); do \
	  grep -nE '^ *# *include "kd/[a-z]+' $$f | grep -vE '"kd/($m|$(subst $(sp),|,$(strip $(USES_$m))))\.h"' | \
	  sed "s|^|$$f:|;s|$$| (lib/$m may use: $(USES_$m))|" | grep . && bad=1; \
	  grep -nE '^ *# *include "(\.\.|lib/)' $$f | sed "s|^|$$f:|" | grep . && bad=1; done;) \
	grep -nE '^ *# *include "(\.\.|lib/)' cmd/*.c cmd/*/*.[ch] && bad=1; \
	[ $$bad = 0 ] && echo "dep-check: every module keeps to its layer"

hdr-check: ## each public header compiles alone
	$(Q)for h in include/kd/*.h; do echo "#include \"kd/$$(basename $$h)\"" | \
	  $(CC) -std=c11 -D_GNU_SOURCE -Iinclude $(WARN) -fsyntax-only -x c - || exit 1; done; \
	echo "hdr-check: every public header stands alone"

# ---- the pipeline --------------------------------------------------------------------------

demo: deps ## install what is missing, build, run the image pipeline on Fashion-MNIST, print its table
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@$(MAKE) --no-print-directory image

include $(wildcard pipelines/*/*.mk bench/bench.mk tests/*/*.mk)

# ---- housekeeping --------------------------------------------------------------------------

JOBS ?= $(shell nproc 2>/dev/null || echo 2)
DEPS := gcc libc6-dev make liblmdb-dev libzstd-dev libyaml-dev libdnnl-dev libjansson-dev libxxhash-dev libutf8proc-dev zlib1g-dev \
  libpng-dev libjpeg-dev libprotobuf-c-dev protobuf-c-compiler libonnx-dev libcmocka-dev gnuplot-nox jq dataset-fashion-mnist python3 python3-lmdb python3-zstandard python3-numpy python3-xxhash \
  python3-pip python3-setuptools python3-wheel python3-venv wordnet-base bsdextrautils
DEPS_TEST := clang libclang-rt-dev libomp-dev valgrind python3-pil chromium chromium-driver python3-selenium
DEPS_FULL := debootstrap shellcheck

# Installs Debian packages that are missing, by name; as root with apt-get, otherwise through sudo.
define install_packages
	@missing=; for p in $1; do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] && exit 0; echo "installing:$$missing"; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	command -v apt-get >/dev/null || { echo "kd: no apt-get here; install by other means:$$missing"; exit 2; }; \
	[ -z "$$sudo" ] || command -v sudo >/dev/null || { echo "kd: not root and no sudo; as root run: apt-get install$$missing"; exit 2; }; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >$(BUILD)-apt.log 2>&1 || \
	{ tail -n 20 $(BUILD)-apt.log; echo "kd: could not install:$$missing"; exit 1; }; rm -f $(BUILD)-apt.log
endef

deps: ## install the packages that building and testing need
	$(call install_packages,$(DEPS))

deps-test: deps
	$(call install_packages,$(DEPS_TEST))
	@bench/peers/setup.sh $(BUILD)/peers/onnx-venv requirements-onnx || echo "kd: without it tests of ONNX files only look at what kd says"

deps-full: deps-test
	$(call install_packages,$(DEPS_FULL))

install: all man ## copy tools and man pages to DESTDIR PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(TOOL_BIN) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(TOOLS:%=$B/man/%.1) $(DESTDIR)$(PREFIX)/share/man/man1

man: $(TOOLS:%=$B/man/%.1) ## man pages from the tools' option tables

$B/man/%.1: $B/%
	@mkdir -p $(@D); $< --man > $@

format: ## lay out the sources by .clang-format
	clang-format -i $$(git ls-files '*.c' '*.h')

clean: ## remove what was built (runs/ and stores stay)
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo "  MODE=release|debug|asan|tsan, CC=, CFLAGS=, V=1, SIZE=full (pipelines)"

.PHONY: all test unit-tests run-tests check test-full damage fresh dep-check hdr-check demo deps deps-test deps-full install man \
  format clean help

-include $(shell find $(B) -name '*.d' 2>/dev/null)
