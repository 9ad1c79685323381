# Are the labels right? A teacher a fold, each trained on the rows of the others and their labels as they are, and an audit in
# which each training row is judged by the teacher that did not see it:
#
#   make audit-folds STORE=fashion.kd TEACHER=teacher.yaml FOLDS=3
#
# The lists, teachers and findings go to OUT; the teachers' logits stay in the store as fold0, fold1, ... (kd-store drop removes them).
FOLDS ?= 3
OUT ?= runs/audit
AUDIT_FOLDS := $(shell seq 0 $$(($(FOLDS) - 1)))

audit-folds: $(TOOL_BIN) ## is the data clean? STORE=NAME.kd TEACHER=NAME.yaml [FOLDS=3] [OUT=runs/audit]: kd-audit with cross-fitted teachers
	$(if $(and $(STORE),$(TEACHER)),,$(error name a store and a teacher: make audit-folds STORE=NAME.kd TEACHER=NAME.yaml))
	$B/kd-audit -s $(STORE) -o $(OUT)/folds --folds $(FOLDS)
	set -e; for k in $(AUDIT_FOLDS); do \
	  $B/kd-train -s $(STORE) $(TEACHER) --drop-rows $(OUT)/folds/fold-$$k.txt -o $(OUT)/teacher-$$k --resume --force; \
	  $B/kd-dump --teacher $(OUT)/teacher-$$k --into $(STORE) --name fold$$k --resume --force; \
	done
	$B/kd-audit -s $(STORE) -o $(OUT) --force $(AUDIT_FOLDS:%=--cross fold%)

.PHONY: audit-folds
