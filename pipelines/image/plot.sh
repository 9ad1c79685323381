#!/bin/sh
# Draws results.json as an SVG: test accuracy of each student with and without the teacher, mean and
# standard deviation over seeds, against its number of parameters.
#
#   pipelines/image/plot.sh runs/image/results.json docs/image-results.svg
set -eu
for tool in jq gnuplot; do
  command -v $tool >/dev/null || { echo "plot.sh: $tool is missing; install it: apt-get install jq gnuplot-nox"; exit 2; }
done
results=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stats='def stat: (add / length) as $m | [$m, (if length > 1 then (map((. - $m) * (. - $m)) | add / (length - 1) | sqrt) else 0 end)];'
for role in plain distilled; do
  jq -r "$stats"'.students | sort_by(.params)[] | select(.'$role') |
    [.params, (.'$role'.accuracy | map(. * 100) | stat)[], .name] | @tsv' "$results" >"$work/$role.tsv"
done
teacher=$(jq -r '.teacher.accuracy * 100' "$results")
params=$(jq -r '.teacher.params' "$results")
seeds=$(jq -r '[.students[].seeds | length] | max' "$results")
gnuplot <<G
set terminal svg size 760,440 font "sans-serif,14" background "#ffffff"
set output "$work/plot.svg"
set title "Fashion-MNIST: students with and without the teacher ($seeds seeds, mean ± sd)"
set xlabel "parameters"
set ylabel "test accuracy, %"
set logscale x
set grid ytics lc rgb "#dddddd"
set key bottom right
set xrange [3000:300000]
set offsets 0, 0, 0.3, 0.5
set yrange [*:$teacher + 1]
set arrow from graph 0, first $teacher to graph 1, first $teacher nohead dt 2 lc rgb "#555555"
set label sprintf("teacher, %s parameters: %.2f %%", "$params", $teacher) at graph 0.02, first $teacher offset 0, 0.6 tc rgb "#555555"
plot "$work/distilled.tsv" using 1:2:3 with yerrorbars pt 7 ps 0.9 lw 2 lc rgb "#0b5fa5" title "with the teacher's logits", \
     "$work/plain.tsv" using 1:2:3 with yerrorbars pt 5 ps 0.8 lw 2 lc rgb "#c4500a" title "labels alone", \
     "$work/distilled.tsv" using 1:2:4 with labels offset 0, 1.2 notitle
G
cp "$work/plot.svg" "$out"
