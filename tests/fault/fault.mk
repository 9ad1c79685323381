# Stops and failing calls, by hand: more of what tests/cli/kills.sh and faults.sh do. Included by the Makefile.
KILLS ?= 500
POINTS ?= all
LEAKS ?= 20

kills: all ## kd-dump killed KILLS=500 times at random moments, and on full disks, into bench/results/
	@rm -rf $B/kills && mkdir -p $B/kills
	@OMP_WAIT_POLICY=passive tests/fault/kills.py $B $(abspath $B)/kills --kills $(KILLS) --results bench/results

train-kills: KILLS = 20
train-kills: all ## kd-train killed KILLS=20 times for each architecture, at changing numbers of threads, into bench/results/
	@rm -rf $B/train-kills && mkdir -p $B/train-kills
	@OMP_WAIT_POLICY=passive tests/fault/train_kills.py $B $(abspath $B)/train-kills --kills $(KILLS) --results bench/results

faults: all unit-tests ## every call that can fail made to fail (POINTS=all of each kind, LEAKS=20 under valgrind; CASE="pack teacher": of some commands), into bench/results/
	@rm -rf $B/faults && mkdir -p $B/faults
	@tests/fault/faults.py $(abspath $B) $(abspath $B)/faults --points $(POINTS) --leaks $(LEAKS) --results bench/results $(CASE)

.PHONY: kills train-kills faults
