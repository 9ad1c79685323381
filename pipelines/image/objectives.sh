#!/bin/sh
# Writes a student's YAML once an objective: the student's own file with the views and the loss of a line of objectives.txt.
# The names are those of points of a sweep, NAME@loss=kd, so that kd-eval pairs each with the plain runs of the same views.
#
#   pipelines/image/objectives.sh FOLDER STUDENT.yaml ...
set -eu
out=$1
shift
mkdir -p "$out"
for student; do
  name=$(sed -n 's/^name: *//p' "$student")
  case $(sed -n 's/^ *arch: *//p' "$student") in
  cnn) map=relu$(sed -n 's/^ *channels: *\[\(.*\)\]/\1/p' "$student" | tr -cd , | wc -c) ;;
  dscnn) map=block$(($(sed -n 's/^ *channels: *\[\(.*\)\]/\1/p' "$student" | tr -cd , | wc -c) - 1)).pw_relu ;;
  *) echo "objectives.sh: $student: no maps to compare; a student of arch cnn or dscnn is needed" >&2 && exit 2 ;;
  esac
  grep -v '^#' "$(dirname "$0")/objectives.txt" | while IFS='|' read -r point views loss; do
    point=$(echo "$point" | tr -d ' ')
    views=$(echo "$views" | tr -d ' ')
    full=$name${point:+@$point}
    {
      sed -e '/^loss:/d' -e '/^#/d' -e "s/^name:.*/name: $full/" "$student"
      echo "views: {from: $views}"
      echo "loss:$loss" | sed "s/MAP/$map/g"
    } >"$out/$full.yaml"
  done
done
