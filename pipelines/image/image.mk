# Fashion-MNIST: pack, train a teacher, dump its logits once, train three students of different size
# and kind with the teacher and without it, several seeds each, all in one pass over the store.
#
# Students see the first IMAGE_ROWS training rows (a fair sample: the store keeps them shuffled);
# SIZE=full gives them all. A stage's output is its target and its YAML files are prerequisites; what a
# tool leaves appears whole or not at all, and an interrupted stage goes on where it was (--resume).
SIZE ?= slice
IMAGE := runs/image$(if $(filter full,$(SIZE)),-full)
IMAGE_ROWS := $(if $(filter full,$(SIZE)),0,4000)
IMAGE_SEEDS ?= 0-2
IMAGE_STORE := $(IMAGE)/fashion.kd
IMAGE_CONF := pipelines/image
IMAGE_STUDENTS := $(IMAGE_CONF)/dscnn-5k.yaml $(IMAGE_CONF)/cnn-25k.yaml $(IMAGE_CONF)/mlp-100k.yaml

image: $(IMAGE)/report.html ## the image pipeline on Fashion-MNIST -> runs/image/report.html, a table, gates (SIZE=full: all rows)
	@echo "with plots and pictures: $<"
	@$B/kd-eval -q --gates $(IMAGE_CONF)/gates.yaml $(IMAGE)/results.json

$(IMAGE)/data.ok: $(IMAGE_CONF)/fashion-mnist.sha256
	@mkdir -p $(@D)
	@sha256sum --quiet -c $< || { echo "kd: Fashion-MNIST is missing or not the expected version; install it: apt-get install dataset-fashion-mnist"; exit 3; }
	@touch $@

$(IMAGE_STORE)/base.mdb: $(IMAGE_CONF)/data.yaml $(IMAGE)/data.ok | $B/kd-dump
	$B/kd-dump $< -o $(IMAGE_STORE) --resume --force

$(IMAGE)/teacher/model.safetensors: $(IMAGE_CONF)/teacher.yaml $(IMAGE_STORE)/base.mdb | $B/kd-train
	$B/kd-train -s $(IMAGE_STORE) $< -o $(@D) --resume --force

$(IMAGE)/dump.json: $(IMAGE)/teacher/model.safetensors | $B/kd-dump
	$B/kd-dump --teacher $(IMAGE)/teacher --into $(IMAGE_STORE) --resume --force --json > $@.part
	@mv $@.part $@

$(IMAGE)/students.json: $(IMAGE_STUDENTS) $(IMAGE)/dump.json | $B/kd-train
	$B/kd-train -s $(IMAGE_STORE) $(IMAGE_STUDENTS) --seeds $(IMAGE_SEEDS) --control --rows $(IMAGE_ROWS) \
	  -o $(IMAGE)/students --resume --force --json > $@.part
	@mv $@.part $@

# A failed gate (status 1) shows in the report, and stops `make image` behind it. Whatever else ends with 1 leaves no .part to move.
$(IMAGE)/results.json: $(IMAGE)/students.json $(IMAGE_CONF)/gates.yaml | $B/kd-eval
	@rm -f $@.part
	$B/kd-eval -s $(IMAGE_STORE) $(IMAGE)/students $(IMAGE)/teacher --pipeline image --gates $(IMAGE_CONF)/gates.yaml \
	  --results $@.part > $(IMAGE)/table.txt || [ $$? = 1 ]
	@mv $@.part $@

$(IMAGE)/report.html: $(IMAGE)/results.json | $B/kd-report
	$B/kd-report $< --title "Fashion-MNIST: three students" -o $@

# Does an assistant between teacher and student help? The assistant is the distilled cnn-25k; its logits become a second
# teacher, in a copy of the store, and the smallest student learns from either: --sweep over the teacher's name.
IMAGE_CHAIN := $(IMAGE)/chain
IMAGE_CHAIN_SEEDS ?= 0-4
IMAGE_CHAIN_STORE := $(IMAGE_CHAIN)/fashion.kd

image-chain: $(IMAGE_CHAIN)/results.json ## teacher, assistant, student beside teacher, student: runs/image/chain/results.json and tables
	@cat $(IMAGE_CHAIN)/points.txt $(IMAGE_CHAIN)/table.txt

$(IMAGE_CHAIN_STORE)/base.mdb: $(IMAGE)/dump.json
	@rm -rf $(@D) $(@D).part; mkdir -p $(IMAGE_CHAIN)
	cp -r $(IMAGE_STORE) $(@D).part
	@mv $(@D).part $(@D); touch $@

$(IMAGE_CHAIN)/assistant/model.safetensors: $(IMAGE_CONF)/cnn-25k.yaml $(IMAGE_CHAIN_STORE)/base.mdb | $B/kd-train
	$B/kd-train -s $(IMAGE_CHAIN_STORE) $< --set loss.teacher=teacher --rows $(IMAGE_ROWS) -o $(@D) --resume --force

$(IMAGE_CHAIN)/dump.json: $(IMAGE_CHAIN)/assistant/model.safetensors | $B/kd-dump
	$B/kd-dump --teacher $(IMAGE_CHAIN)/assistant --into $(IMAGE_CHAIN_STORE) --name assistant --resume --force --json > $@.part
	@mv $@.part $@

$(IMAGE_CHAIN)/points.txt: $(IMAGE_CONF)/dscnn-5k.yaml $(IMAGE_CHAIN)/dump.json | $B/kd-train
	$B/kd-train -s $(IMAGE_CHAIN_STORE) $< --sweep loss.teacher=teacher,assistant --seeds $(IMAGE_CHAIN_SEEDS) --control \
	  --select valid_accuracy --rows $(IMAGE_ROWS) -o $(IMAGE_CHAIN)/students --resume --force > $@.part
	@mv $@.part $@

$(IMAGE_CHAIN)/results.json: $(IMAGE_CHAIN)/points.txt | $B/kd-eval
	$B/kd-eval -s $(IMAGE_CHAIN_STORE) $(IMAGE_CHAIN)/students --teacher teacher --no-selection --pipeline image-chain \
	  --results $@.part > $(IMAGE_CHAIN)/table.txt
	@mv $@.part $@

# Which objective, and do the teacher's features and views help? Features and logits of views are added once, to a copy of the
# store; two students learn every line of objectives.txt from it, all seeds in one pass.
IMAGE_OBJ := $(IMAGE)/objectives
IMAGE_OBJ_SEEDS ?= 0-4
IMAGE_OBJ_EPOCHS ?= 20
IMAGE_OBJ_STORE := $(IMAGE_OBJ)/fashion.kd
IMAGE_OBJ_STUDENTS := $(IMAGE_CONF)/cnn-6k.yaml $(IMAGE_CONF)/dscnn-5k.yaml

image-objectives: $(IMAGE_OBJ)/results.json ## twelve objectives, features and views on two students: runs/image/objectives/results.json and tables
	@cat $(IMAGE_OBJ)/table.txt

$(IMAGE_OBJ_STORE)/base.mdb: $(IMAGE)/dump.json
	@rm -rf $(@D) $(@D).part; mkdir -p $(IMAGE_OBJ)
	cp -r $(IMAGE_STORE) $(@D).part
	@mv $(@D).part $(@D); touch $@

$(IMAGE_OBJ)/features.json: $(IMAGE_OBJ_STORE)/base.mdb | $B/kd-dump
	$B/kd-dump --teacher $(IMAGE)/teacher --into $(IMAGE_OBJ_STORE) --segment features --no-logits --dtype f16 \
	  --tap relu2:mean --tap relu1:attention=7x7 --tap pool1:flat --resume --force --json > $@.part
	@mv $@.part $@

$(IMAGE_OBJ)/views.json: $(IMAGE_OBJ)/features.json | $B/kd-dump
	$B/kd-dump --teacher $(IMAGE)/teacher --into $(IMAGE_OBJ_STORE) --no-logits --views 4 --view-shift 2 --view-flip \
	  --resume --force --json > $@.part
	@mv $@.part $@

$(IMAGE_OBJ)/yaml/made: $(IMAGE_CONF)/objectives.sh $(IMAGE_CONF)/objectives.txt $(IMAGE_OBJ_STUDENTS)
	@rm -rf $(@D)
	$(IMAGE_CONF)/objectives.sh $(@D) $(IMAGE_OBJ_STUDENTS)
	@touch $@

$(IMAGE_OBJ)/students.json: $(IMAGE_OBJ)/yaml/made $(IMAGE_OBJ)/views.json | $B/kd-train
	$B/kd-train -s $(IMAGE_OBJ_STORE) $(@D)/yaml/*.yaml --seeds $(IMAGE_OBJ_SEEDS) --set train.epochs=$(IMAGE_OBJ_EPOCHS) \
	  --rows $(IMAGE_ROWS) -o $(IMAGE_OBJ)/students --resume --force --json > $@.part
	@mv $@.part $@

$(IMAGE_OBJ)/results.json: $(IMAGE_OBJ)/students.json | $B/kd-eval
	$B/kd-eval -s $(IMAGE_OBJ_STORE) $(IMAGE_OBJ)/students --against loss=kd --pipeline image-objectives --results $@.part > $(IMAGE_OBJ)/table.txt
	@mv $@.part $@

image-plot: $(IMAGE)/results.json ## docs/image-results.svg from the results
	pipelines/image/plot.sh $< docs/image-results.svg

image-clean: ## remove the image pipeline's outputs
	rm -rf $(IMAGE)

.PHONY: image image-chain image-objectives image-plot image-clean
