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
MODULES ?= base config store nn data loss model teacher train eval cli
USES_base := none
USES_config := base
USES_cli := base config
USES_store := base config
USES_nn := base config
USES_data := base config store
USES_loss := base config nn
USES_model := base config nn loss
USES_teacher := base config nn model store data
USES_train := base config nn loss model store data
USES_eval := base config nn loss model store data train

TOOLS := kd kd-dump kd-train kd-eval kd-store
LIBS := -ldnnl -llmdb -lzstd -lyaml -ljansson -lxxhash -lz -lm

WARN := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla
OPT_release := -O3 -g -DNDEBUG
OPT_debug := -O1 -g
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all
OPT_tsan := -O1 -g -fsanitize=thread
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude $(WARN) $(OPT_$(MODE)) -fopenmp -fno-math-errno \
  -fno-trapping-math -DKD_MODE='"$(MODE)"' $(CFLAGS)

LIB_SRC := $(foreach m,$(MODULES),$(wildcard lib/$m/*.c))
# A kernel file NAME.simd.c is compiled once per instruction set, its functions suffixed _$(isa).
SIMD_SRC := $(filter %.simd.c,$(LIB_SRC))
ISAS := scalar avx2 avx512
ISA_scalar :=
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
LIB_OBJ := $(patsubst %.c,$B/%.o,$(filter-out %.simd.c,$(LIB_SRC))) \
  $(foreach i,$(ISAS),$(patsubst %.simd.c,$B/%.$i.o,$(SIMD_SRC)))
TESTS := $(patsubst %.c,$B/%,$(wildcard tests/unit/test_*.c))
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
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

define simd_rule
$B/%.$1.o: %.simd.c $B/flags
	@mkdir -p $$(@D); echo "  CC   $$< ($1)"
	$(Q)$(CC) $(ALL_CFLAGS) $(ISA_$1) -ffp-contract=fast -DKD_SIMD=$1 -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call simd_rule,$i)))

$B/libkd.a: $(LIB_OBJ)
	@echo "  AR   $@"; rm -f $@
	$(Q)ar rcs $@ $^

$B/tests/unit/%: $B/tests/unit/%.o $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(TOOL_BIN): $B/%: $B/cmd/%.o $B/libkd.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

-include $(shell find $(B) -name '*.d' 2>/dev/null)
