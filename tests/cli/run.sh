#!/bin/sh
# kd-run: pictures and rows become answers, the same as kd-eval's; what cannot be used gets one line and the rest goes on.
. "$(dirname "$0")/common"
cd "$work" || exit 1
R=$KD_BIN/kd-run
T10K=$FASHION/t10k-images-idx3-ubyte.gz
data_yaml | sed 's/classes: 10/classes: 10\n  class_names: [a, b, c, d, e, f, g, h, i, j]/' >data.yaml
student_yaml pupil 16 0 | sed 's/ce: 0.5/ce: 1/; s/epochs: 2/epochs: 1/' >pupil.yaml
check "a store is packed" "$KD_BIN/kd-dump" data.yaml -o f.kd
check "a student is trained" "$KD_BIN/kd-train" -s f.kd pupil.yaml -o pupil --rows 6400

cat >pictures.py <<P
import gzip, struct, zlib
import numpy as np
from PIL import Image
x = np.frombuffer(gzip.open("$T10K").read()[16:], "u1").reshape(-1, 28, 28)
y = np.frombuffer(gzip.open("$FASHION/t10k-labels-idx1-ubyte.gz").read()[8:], "u1")
np.savetxt("labels.txt", y, "%d")
open("three.raw", "wb").write(x[:3].tobytes())
np.save("rows.npy", x[:4])
np.save("numbers.npy", x[:2].astype("f4"))
np.save("broken.npy", np.where(np.arange(784).reshape(28, 28) == 5, np.nan, x[:1].astype("f4")))
np.save("wide.npy", x[:2, :, :27])
a = Image.fromarray(x[0])
a.save("a.png"), a.convert("RGB").save("rgb.png"), a.convert("RGBA").save("rgba.png"), a.convert("P").save("palette.png")
Image.fromarray(x[0].astype("u2") * 257).save("deep.png")
big = a.resize((56, 56), Image.NEAREST)
big.save("big.png"), big.resize((112, 56)).save("wide.png")
big.convert("CMYK").save("cmyk.jpg")
big.save("big.jpg", quality=95)
clear = a.convert("RGBA")
clear.putalpha(0)
clear.save("clear.png")
# a camera's eight ways to hold the same picture: turned, and noted how to turn it back
back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # transposes that undo it, as Pillow counts
for how in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = how
    stored = big if back[how] is None else big.transpose(back[how])
    stored.save(f"turned-{how}.jpg", quality=95, exif=exif)
for name in "a.png", "big.jpg":
    data = open(name, "rb").read()
    open("cut-" + name, "wb").write(data[: len(data) * 2 // 3])
data = bytearray(open("a.png", "rb").read())
data[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
open("huge.png", "wb").write(data)
open("text.png", "w").write("hello")
P
check "pictures are made" /usr/bin/python3 pictures.py

# The same answers as kd-eval, row by row and in total.
check "all rows of an IDX file" "$R" pupil "$T10K"
cut -f 2 out | tr a-j 0-9 >said.txt
same "have a line each" "$(wc -l <said.txt)" 10000
hits=$(paste said.txt labels.txt | awk '$1 == $2' | wc -l)
"$KD_BIN/kd-eval" -q -s f.kd pupil --json >eval.json
same "and are right as often as kd-eval says" "$hits" "$(jq '.students[0] | (.teacher.accuracy[0] // .plain.accuracy[0] // .distilled.accuracy[0]) * 10000 | round' eval.json)"
line() { # what a file is answered, without its name
  "$R" -q --top 3 pupil "$@" 2>/dev/null | cut -f 2-
}
first=$(line "$T10K#0")
same "one row alone is answered alike" "$("$R" -q --top 3 --batch 7 pupil "$T10K" | sed -n 1p | cut -f 2-)" "$first"
for f in a.png rgb.png rgba.png palette.png deep.png big.png; do same "$f is the same picture" "$(line $f)" "$first"; done
same "rows of .npy, bytes or numbers" "$(line rows.npy | head -n 2)" "$(line numbers.npy)"
same "bytes from standard input" "$("$R" -q --top 3 pupil - <three.raw | cut -f 2-)" "$(line "rows.npy#0" "rows.npy#1" "rows.npy#2")"
same "a picture from standard input" "$("$R" -q --top 3 pupil - <a.png | cut -f 2-)" "$first"
said=$(line big.jpg | cut -f 1)
for how in 1 2 3 4 5 6 7 8; do same "a picture held in way $how is turned upright" "$(line turned-$how.jpg | cut -f 1)" "$said"; done

# What was done to a picture is said.
check "another size" "$R" pupil wide.png
same "is resampled with a note" "$(grep -c 'wide.png: 112 x 56 pixels, resampled to 28 x 28, stretched' err)" 1
check "transparent pixels" "$R" pupil clear.png
same "lie on white, with a note" "$(grep -c 'clear.png: transparent pixels laid on white' err)" 1
check "the same for programs" "$R" --json --top 2 pupil a.png wide.png "$T10K#7"
same "an object a line" "$(jq -c '[.file[-7:], .row, .resampled_from, (.top | length)]' out | tr '\n' ' ')" \
  '["a.png",null,null,2] ["ide.png",null,[56,112],2] ["byte.gz",7,null,2] '
same "with probabilities that add up" "$("$R" -q --json --top 10 pupil a.png | jq '[.top[].p] | add | . > 0.999999 and . < 1.000001')" true
check "speed is measured" "$R" --bench --json pupil
same "in the measures of kd-eval" "$(jq -c '.latency_us > 0 and .latency_p99_us >= .latency_us and .throughput_rows_s > 0, .throughput_batch' out | tr '\n' ' ')" 'true 64 '

# One line each, then the rest.
"$R" pupil cut-a.png a.png cut-big.jpg text.png none.png huge.png cmyk.jpg wide.npy . "$T10K#10000" rgb.png >out 2>err
same "broken files end with 3" $? 3
same "the others are answered" "$(cut -f 1 out | tr '\n' ' ')" "a.png rgb.png "
same "each broken one has one line, and there is a last one" "$(grep -c '^kd-run: ' err)" 10
for why in "cut-a.png: damaged PNG" "cut-big.jpg: damaged JPEG" "text.png: neither a PNG nor a JPEG" "none.png: no such file" \
  "huge.png: " "cmyk.jpg: a JPEG of 4 colour" "wide.npy: its rows are 28 x 27, the student takes 28 x 28 x 1" ".: a folder" \
  "no row 10000; it has 10000" "9 of the files could not be used"; do
  same "named: $why" "$(grep -cF -- "$why" err)" 1
done
same "programs see them too" "$("$R" -q --json pupil text.png a.png 2>/dev/null | jq -c 'has("error")' | tr '\n' ' ')" "true false "
refused 3 "row 0, value 5 is nan" "a row with a hole" "$R" -q pupil broken.npy
refused 3 "5 bytes are no picture and no whole rows of 28 x 28 x 1" "half a row of bytes" sh -c "printf 12345 | $R -q pupil -"
refused 3 "a picture has no rows" "a row of a picture" "$R" -q pupil "a.png#1"
refused 3 "standard input: empty" "nothing" "$R" -q pupil -
refused 2 "no file given" "no file" "$R" pupil
refused 2 "no model folder" "no student" "$R" --top 3
refused 3 "no such folder" "a student that is not there" "$R" nobody a.png
refused 3 "config.json" "a folder that is none" "$R" f.kd a.png

# A student of numbers from 0 to 1 is not fed bytes in silence.
cp -r pupil unit && jq '.preprocess = {mean: 0.286, scale: 2.83}' pupil/config.json >unit/config.json
refused 3 "if white was 1 there: --white 1" "bytes for a student of small numbers" "$R" -q unit a.png
cp -r pupil plain && jq '.preprocess = {mean: 0, scale: 1}' pupil/config.json >plain/config.json
check "white can be said" "$R" --white 1 unit a.png
jq '.labels = ["<b>\u001b[31m\t", "b", "c", "d", "e", "f", "g", "h", "i", "j"]' pupil/config.json >plain/config.json
same "a hostile class name stays on its line" "$("$R" -q --top 10 plain a.png | tr '\t' '\n' | grep -c '^<b>?\[31m?$')" 1
finish
