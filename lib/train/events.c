/* events.c - TensorBoard's event files, written without TensorBoard.
 *
 * An event file is a translation of metrics.jsonl and of nothing else: one record a line, its step and time,
 * and each number in it as a scalar. So a resumed run writes it anew from the log in its checkpoint, no step
 * comes twice, and it may be asked for in the middle of a run. Numbers of an epoch's line are called
 * epoch/NAME, those of a line between epochs step/NAME.
 *
 * Framing is TFRecord: length (u64), masked CRC-32C of the length, payload, masked CRC-32C of the payload,
 * all little endian. The payload is protocol buffers' encoding of three messages, of which these fields are
 * used:
 *
 *     Event:   1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary (Summary)
 *     Summary: 1 value (Value, repeated)
 *     Value:   1 tag (string), 2 simple_value (float)
 */
#include "train_private.h"

#include <string.h>

/* ---- bytes -------------------------------------------------------------------------------- */

static void put_le(kd_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++, v >>= 8) kd_buf_append(b, &(uint8_t){(uint8_t)v}, 1);
}

static void put_varint(kd_buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) put_le(b, v | 0x80, 1);
    put_le(b, v, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; // wire types
static void put_key(kd_buf *b, int field, int wire) { put_varint(b, (uint64_t)(field << 3 | wire)); }

static void put_double(kd_buf *b, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    put_key(b, field, FIXED64);
    put_le(b, bits, 8);
}

static void put_float(kd_buf *b, int field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    put_key(b, field, FIXED32);
    put_le(b, bits, 4);
}

/* A string or an embedded message. */
static void put_bytes(kd_buf *b, int field, const void *data, size_t len)
{
    put_key(b, field, BYTES);
    put_varint(b, len);
    if (len) kd_buf_append(b, data, len);
}

/* CRC-32C (Castagnoli), bit by bit: a run writes some kilobytes of these. */
static uint32_t crc32c(const uint8_t *x, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= x[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
    }
    return ~c;
}

static void put_masked_crc(kd_buf *b, const void *data, size_t n)
{
    uint32_t c = crc32c(data, n);
    put_le(b, (c >> 15 | c << 17) + 0xa282ead8u, 4);
}

static void put_record(kd_buf *out, kd_buf *payload)
{
    size_t at = out->len;
    put_le(out, payload->len, 8);
    if (!out->failed) put_masked_crc(out, out->text + at, 8);
    if (payload->len) kd_buf_append(out, payload->text, payload->len);
    put_masked_crc(out, payload->text, payload->len);
    out->failed |= payload->failed;
    kd_buf_release(payload);
}

/* ---- events ------------------------------------------------------------------------------- */

static void put_scalars(kd_buf *summary, const char *prefix, json_t *o)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        char tag[160];
        kd_buf value = {0};
        snprintf(tag, sizeof(tag), "%s/%s", prefix, key);
        if (json_is_object(v)) put_scalars(summary, tag, v);
        if (!json_is_number(v) || !strcmp(key, "epoch") || !strcmp(key, "step") || !strcmp(key, "time"))
            continue;
        put_bytes(&value, 1, tag, strlen(tag));
        put_float(&value, 2, (float)json_number_value(v));
        put_bytes(summary, 1, value.text, value.len);
        summary->failed |= value.failed;
        kd_buf_release(&value);
    }
}

static void put_event(kd_buf *out, json_t *line)
{
    kd_buf event = {0}, summary = {0};
    put_double(&event, 1, json_number_value(json_object_get(line, "time")));
    put_key(&event, 2, VARINT);
    put_varint(&event, (uint64_t)json_integer_value(json_object_get(line, "step")));
    put_scalars(&summary, json_object_get(line, "epoch") ? "epoch" : "step", line);
    put_bytes(&event, 5, summary.text, summary.len);
    event.failed |= summary.failed;
    kd_buf_release(&summary);
    put_record(out, &event);
}

void kd__events_begin(kd_buf *out, double time)
{
    static const char version[] = "brain.Event:2";
    kd_buf event = {0};
    put_double(&event, 1, time);
    put_bytes(&event, 3, version, strlen(version));
    put_record(out, &event);
}

kd_status kd__events_lines(kd_buf *out, const char *lines, size_t len, kd_err *err)
{
    for (const char *end; len; len -= (size_t)(end - lines), lines = end) {
        json_t *o;
        const char *cut = memchr(lines, '\n', len);
        end = cut ? cut + 1 : lines + len;
        kd_status st = kd_json_parse(&o, lines, (size_t)(end - lines), NULL);
        if (st)
            return kd_fail(err, st, "events: a line of metrics is not valid JSON: %.*s",
                           (int)kd_min_size(80, len), lines);
        put_event(out, o);
        json_decref(o);
    }
    return out->failed ? kd_fail(err, KD_ENOMEM, "no memory for the events") : KD_OK;
}
