/* jsonl.c - one line of JSON as one row of outputs.
 *
 * A line is an object with a key of the row ("id": 32 hex digits, or "source" or "row": a number) and one
 * member of outputs, told by its name (or named by the caller); it may stand in the object itself, in
 * "meta_info" or in the first of "choices", where inference servers put it:
 *
 *     "logits": [0.1, -2, ...]                            one dense vector
 *     "logits": [[...], [...]]                            one a position
 *     "top_logprobs": [{"id": 5, "logprob": -0.1}, ...]   top-k entries of one vector
 *     "prompt_logprobs": [null, {"5": {"logprob": -0.1, "rank": 1}, "7": ...}, ...]     vLLM
 *     "input_top_logprobs": [null, [[-0.1, 5, null], ...], ...]                         SGLang
 *     "logprobs": {"content": [{"top_logprobs": [{"token": "token_id:5", "logprob": -0.1}, ...]}, ...]}
 * OpenAI "logprobs": {"top_logprobs": [{"token_id:5": -0.1, ...}, ...]}                    OpenAI completions
 *
 * An entry's class is "id" or "token_id", or "token" with "token_id:5" or digits. A first position that is
 * null (a prompt's first token has no prediction) is left out, so position p predicts token p + 1.
 *
 * Depth and number of values are counted before jansson takes memory for them: a line of brackets would
 * otherwise cost a hundred times its length.
 */
#include "exchange_private.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDING 1e-3 /* what a log-probability may be above 0, a sum of probabilities above 1 */

static const char *const known[] = {"top_logprobs", "prompt_logprobs", "input_top_logprobs",
                                    "output_top_logprobs", "logprobs"};

/* Brackets and separators outside of strings. */
static kd_status check_limits(const char *line, size_t len, kd_err *err)
{
    size_t depth = 0, values = 0;
    bool string = false;
    if (len > KD_JSONL_MAX_LINE)
        return kd_fail(err, KD_ELIMIT, "a line of more than %u bytes", KD_JSONL_MAX_LINE);
    for (size_t i = 0; i < len; i++) {
        const char c = line[i];
        if (string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                string = false;
        } else if (c == '"') {
            string = true;
        } else if (c == '[' || c == '{') {
            values++;
            if (++depth > KD_JSONL_MAX_DEPTH)
                return kd_fail(err, KD_ELIMIT, "more than %d brackets within each other", KD_JSONL_MAX_DEPTH);
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
        } else if (c == ',' || c == ':') {
            values++;
        }
    }
    if (values <= KD_JSONL_MAX_VALUES) return KD_OK;
    return kd_fail(err, KD_ELIMIT, "a line of more than %u values", KD_JSONL_MAX_VALUES);
}

/* ---- which row, which member ------------------------------------------------------------------- */

const char *kd__shown(const char *s, char *buf)
{
    size_t n = 0;
    for (; s[n] && n < 48; n++) buf[n] = s[n] >= ' ' && s[n] <= '~' ? s[n] : '?';
    memcpy(buf + n, s[n] ? "..." : "", s[n] ? 4 : 1);
    return buf;
}

/* The id of a server's response is no row id: only 32 hex digits count as one. */
static kd_status take_key(kd_jsonl_row *row, const json_t *o, kd_err *err)
{
    const json_t *id = json_object_get(o, "id"), *source = json_object_get(o, "source");
    const json_t *number = source ? source : json_object_get(o, "row");
    row->key = KD_KEY_NONE;
    if (json_is_string(id) && kd_id_parse(json_string_value(id), &row->id)) {
        row->key = KD_KEY_ID;
    } else if (number) {
        if (!json_is_integer(number) || json_integer_value(number) < 0)
            return kd_fail(err, KD_ECORRUPT, "\"%s\" is no row number", source ? "source" : "row");
        row->key = source ? KD_KEY_SOURCE : KD_KEY_ROW;
        kd__key_of_number((uint64_t)json_integer_value(number), row->id.b);
    }
    return KD_OK;
}

static bool known_name(const char *name)
{
    kd_role role;
    char tap[KD_STORE_NAME_MAX];
    const size_t len = strlen(name);
    if ((len > 5 && !strcmp(name + len - 5, ".tail")) || (len > 5 && !strcmp(name + len - 5, ".logz")))
        return false;
    for (size_t i = 0; i < KD_COUNT(known); i++)
        if (!strcmp(name, known[i])) return true;
    return kd__role_of_name(name, &role, tap);
}

/* The member of outputs in one object. *name stays NULL: none. */
static kd_status search(json_t *o, const char *field, const char **name, json_t **value, kd_err *err)
{
    char a[64], b[64];
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        if (json_is_null(v) || (field ? strcmp(key, field) : !known_name(key))) continue;
        if (*name)
            return kd_fail(err, KD_EUSAGE, "both \"%s\" and \"%s\" are there; say which one with --field",
                           kd__shown(*name, a), kd__shown(key, b));
        *name = key;
        *value = v;
    }
    return KD_OK;
}

/* in: the object that holds the member, for what stands beside it. */
static kd_status find_member(json_t *o, const char *field, const char **name, json_t **value, json_t **in,
                             kd_err *err)
{
    json_t *places[] = {o, json_object_get(o, "meta_info"), json_array_get(json_object_get(o, "choices"), 0)};
    kd_status st = KD_OK;
    *name = NULL;
    for (size_t i = 0; i < KD_COUNT(places) && !*name && !st; i++) {
        *in = places[i];
        if (json_is_object(places[i])) st = search(places[i], field, name, value, err);
    }
    if (st || *name) return st;
    if (field) return kd_fail(err, KD_EUSAGE, "no member \"%.60s\" that is not null", field);
    return kd_fail(
        err, KD_EUSAGE,
        "no member is named logits, scores, features, top_logprobs or prompt_logprobs; say which one "
        "with --field");
}

/* ---- numbers ------------------------------------------------------------------------------------ */

static kd_status take_vector(kd_jsonl_row *row, const json_t *list, size_t position, kd_err *err)
{
    const size_t n = json_array_size(list);
    if (position == 0) row->width = n;
    if (!n || n != row->width)
        return kd_fail(err, KD_EMISMATCH, "%s: position %zu has %zu numbers, expected %zu", row->field,
                       position, n, row->width ? row->width : 1);
    kd_status st = kd__room(&row->values, &row->cap, (position + 1) * n * sizeof(float), err);
    if (st) return st;
    float *to = row->values + position * n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v))
            return kd_fail(err, KD_ECORRUPT, "%s: position %zu, class %zu is no number", row->field, position,
                           i);
        to[i] = (float)json_number_value(v);
        if (!isfinite(to[i]))
            return kd_fail(err, KD_ENUMERIC, "%s: position %zu, class %zu: %g does not fit into f32",
                           row->field, position, i, json_number_value(v));
    }
    row->positions = position + 1;
    return KD_OK;
}

/* ---- top-k entries ------------------------------------------------------------------------------ */

typedef struct entry {
    uint32_t id;
    float logprob;
} entry;

static int by_id(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* "token_id:5" or "5". */
static bool parse_token(const char *s, uint32_t *id)
{
    uint64_t n = 0;
    if (!strncmp(s, "token_id:", 9)) s += 9;
    if (!*s || strlen(s) > 9) return false;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s)) return false;
        n = 10 * n + (uint64_t)(*s - '0');
    }
    *id = (uint32_t)n;
    return true;
}

static kd_status parse_class(const char *s, const kd_jsonl_row *row, uint32_t *id, kd_err *err)
{
    char shown[64];
    if (parse_token(s, id) && *id < KD_CODEC_MAX_WIDTH) return KD_OK;
    return kd_fail(err, KD_ECORRUPT,
                   "%s: token \"%s\" is no class number (vLLM prints them with return_tokens_as_token_ids)",
                   row->field, kd__shown(s, shown));
}

static kd_status take_class(const json_t *v, const kd_jsonl_row *row, uint32_t *id, kd_err *err)
{
    if (json_is_string(v)) return parse_class(json_string_value(v), row, id, err);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= KD_CODEC_MAX_WIDTH)
        return kd_fail(err, KD_ECORRUPT, "%s: a class is no number from 0 to %d", row->field,
                       KD_CODEC_MAX_WIDTH - 1);
    *id = (uint32_t)json_integer_value(v);
    return KD_OK;
}

static kd_status take_logprob(const json_t *v, const kd_jsonl_row *row, float *logprob, kd_err *err)
{
    const double x = json_number_value(v);
    if (!json_is_number(v) || !(x <= ROUNDING) || !isfinite((float)x))
        return kd_fail(err, KD_ECORRUPT, "%s: a log-probability is no number of at most 0", row->field);
    *logprob = (float)x > 0 ? 0 : (float)x;
    return KD_OK;
}

/* {"id": 5, "logprob": -0.1} or [-0.1, 5, text]. */
static kd_status take_candidate(const json_t *v, const kd_jsonl_row *row, entry *e, kd_err *err)
{
    const json_t *id, *logprob;
    if (json_is_array(v)) {
        logprob = json_array_get(v, 0);
        id = json_array_get(v, 1);
    } else {
        logprob = json_object_get(v, "logprob");
        id = json_object_get(v, "id");
        if (!id) id = json_object_get(v, "token_id");
        if (!id) id = json_object_get(v, "token");
    }
    kd_status st = take_class(id, row, &e->id, err);
    return st ? st : take_logprob(logprob, row, &e->logprob, err);
}

/* "5": -0.1 or "5": {"logprob": -0.1}. */
static kd_status take_member(const char *key, const json_t *v, const kd_jsonl_row *row, entry *e, kd_err *err)
{
    kd_status st = parse_class(key, row, &e->id, err);
    if (st) return st;
    return take_logprob(json_is_object(v) ? json_object_get(v, "logprob") : v, row, &e->logprob, err);
}

kd_status kd__top_reserve(kd_sparse *s, size_t positions, size_t entries, kd_err *err)
{
    size_t cap = s->cap * 8, ids = s->entry_cap * 4, value = ids, exact = s->entry_cap, tail = s->cap * 4,
           logz = tail;
    kd_status st = KD_OK;
    if (positions + 1 > s->cap || !s->offset) {
        const size_t n = positions + 1 + positions / 2;
        if ((st = kd__room(&s->offset, &cap, n * 8, err)) || (st = kd__room(&s->tail, &tail, n * 4, err)) ||
            (st = kd__room(&s->logz, &logz, n * 4, err)))
            return st;
        s->cap = n;
        s->offset[0] = 0;
    }
    if (entries > s->entry_cap || !s->id) {
        const size_t n = entries + entries / 2 + 1;
        if ((st = kd__room(&s->id, &ids, n * 4, err)) || (st = kd__room(&s->value, &value, n * 4, err)) ||
            (st = kd__room(&s->exact, &exact, n, err)))
            return st;
        s->entry_cap = n;
    }
    return KD_OK;
}

/* Appends one position of n entries. */
static kd_status put_position(kd_jsonl_row *row, entry *e, size_t n, kd_err *err)
{
    kd_sparse *s = &row->top;
    double mass = 0;
    float top = -INFINITY;
    kd_status st = kd__top_reserve(s, s->positions + 1, s->entries + n, err);
    if (st) return st;
    if (!n) return kd_fail(err, KD_ECORRUPT, "%s: position %zu has no entries", row->field, s->positions);
    qsort(e, n, sizeof *e, by_id);
    for (size_t i = 0; i < n; i++) {
        if (i && e[i].id == e[i - 1].id)
            return kd_fail(err, KD_ECORRUPT, "%s: position %zu has class %u twice", row->field, s->positions,
                           e[i].id);
        s->id[s->entries + i] = e[i].id;
        s->value[s->entries + i] = e[i].logprob;
        s->exact[s->entries + i] = 1;
        mass += kd_codec_exp((double)e[i].logprob);
        if (e[i].logprob > top) top = e[i].logprob;
    }
    if (mass > 1 + ROUNDING) row->over_one++;
    if (mass - 1 > row->worst) row->worst = mass - 1;
    if (n > row->most) row->most = (uint32_t)n;
    if (e[n - 1].id > row->largest) row->largest = e[n - 1].id;
    s->tail[s->positions] = mass < 1 ? (float)(1 - mass) : 0;
    s->logz[s->positions] = -top; // log sum exp(z - max z) = -log p(max)
    s->offset[++s->positions] = s->entries += n;
    row->positions = s->positions;
    return KD_OK;
}

/* A position: a list of candidates, {"top_logprobs": list}, or a map from classes. */
static kd_status take_position(kd_jsonl_row *row, const json_t *v, kd_err *err)
{
    const json_t *inner = json_object_get(v, "top_logprobs");
    const json_t *list = inner ? inner : v;
    const size_t n = json_is_array(list) ? json_array_size(list) : json_object_size(list);
    const char *key;
    json_t *member;
    size_t i = 0;
    kd_status st = KD_OK;
    if (!json_is_array(list) && !json_is_object(list))
        return kd_fail(err, KD_ECORRUPT, "%s: position %zu is neither a list nor a map of classes%s",
                       row->field, row->top.positions,
                       json_is_null(v) ? " (only the first one may be null)" : "");
    entry *e = malloc((n + 1) * sizeof *e);
    if (!e) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (json_is_array(list)) {
        for (; i < n && !st; i++) st = take_candidate(json_array_get(list, i), row, &e[i], err);
    } else {
        json_object_foreach((json_t *)list, key, member)
        {
            if (!st) st = take_member(key, member, row, &e[i++], err);
        }
    }
    if (!st) st = put_position(row, e, n, err);
    free(e);
    return st;
}

/* ---- a line ------------------------------------------------------------------------------------- */

static bool is_candidate(const json_t *v)
{
    if (json_is_object(v)) return json_object_get(v, "logprob") && !json_object_get(v, "top_logprobs");
    const json_t *text = json_array_get(v, 2);
    return json_array_size(v) == 3 && (json_is_null(text) || json_is_string(text));
}

/* Tail mass or log-partition that stands beside the entries: a number, or one a position. */
static kd_status take_beside(const kd_jsonl_row *row, const json_t *o, const char *end, float *to,
                             kd_err *err)
{
    char key[KD_STORE_NAME_MAX + 8];
    snprintf(key, sizeof key, "%s%s", row->field, end);
    const json_t *v = json_object_get(o, key);
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v) return KD_OK;
    if (n != row->positions)
        return kd_fail(err, KD_EMISMATCH, "%s: %zu numbers for %zu positions", key, n, row->positions);
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, i) : v;
        const double d = json_number_value(x);
        if (!json_is_number(x) || !(d >= 0) || !isfinite((float)d) || (!strcmp(end, ".tail") && d > 1))
            return kd_fail(err, KD_ECORRUPT, "%s: position %zu is no %s", key, i,
                           strcmp(end, ".tail") ? "number of at least 0" : "probability");
        to[i] = (float)d;
    }
    return KD_OK;
}

static kd_status take_list(kd_jsonl_row *row, const json_t *list, kd_err *err)
{
    const size_t n = json_array_size(list);
    size_t first = json_is_null(json_array_get(list, 0)) ? 1 : 0;
    const json_t *v = json_array_get(list, first);
    kd_status st = KD_OK;
    row->sparse = false;
    row->ragged = true;
    if (n == first) return KD_OK; // no positions
    if (json_is_number(v)) {
        row->ragged = false;
        return take_vector(row, list, 0, err);
    }
    if (json_is_array(v) && json_is_number(json_array_get(v, 0)) && !is_candidate(v)) {
        for (size_t i = first; i < n && !st; i++)
            st = take_vector(row, json_array_get(list, i), i - first, err);
        return st;
    }
    row->sparse = true;
    if (is_candidate(v)) {
        row->ragged = false;
        return take_position(row, list, err);
    }
    for (size_t i = first; i < n && !st; i++) st = take_position(row, json_array_get(list, i), err);
    return st;
}

static kd_status take_line(kd_jsonl_row *row, json_t *o, const char *field, kd_err *err)
{
    const char *name = NULL;
    json_t *value = NULL, *in = NULL, *inner;
    char shown[64];
    if (!json_is_object(o)) return kd_fail(err, KD_ECORRUPT, "a line is not an object");
    kd_status st = take_key(row, o, err);
    if (st || (st = find_member(o, field, &name, &value, &in, err))) return st;
    if (strlen(name) >= sizeof row->field)
        return kd_fail(err, KD_ELIMIT, "member \"%s\": its name is too long", kd__shown(name, shown));
    for (size_t i = 0; i <= strlen(name); i++) // it stands in messages
        row->field[i] = (name[i] < ' ' && name[i]) || name[i] > '~' ? '?' : name[i];
    if (json_is_object(value)) {
        inner = json_object_get(value, "content");
        value = inner ? inner : json_object_get(value, "top_logprobs");
    }
    if (!json_is_array(value)) return kd_fail(err, KD_ECORRUPT, "%s is not a list", row->field);
    if ((st = take_list(row, value, err)) || !row->sparse) return st;
    if ((st = take_beside(row, in, ".tail", row->top.tail, err))) return st;
    return take_beside(row, in, ".logz", row->top.logz, err);
}

kd_status kd_jsonl_line_parse(kd_jsonl_row *row, const char *line, size_t len, const char *field, kd_err *err)
{
    json_error_t e;
    char shown[64];
    row->positions = row->width = row->top.positions = row->top.entries = 0;
    row->most = row->largest = 0;
    row->over_one = 0;
    row->worst = 0;
    row->top.temperatures = 1;
    row->top.temperature[0] = 1;
    kd_status st = check_limits(line, len, err);
    if (st) return st;
    json_t *o;
    if ((st = kd_json_parse(&o, line, len, &e)))
        return kd_fail(err, st, "no valid JSON at byte %d: %s", e.position, kd__shown(e.text, shown));
    st = take_line(row, o, field, err);
    json_decref(o);
    return st;
}

void kd_jsonl_row_release(kd_jsonl_row *row)
{
    free(row->values);
    kd_sparse_release(&row->top);
    memset(row, 0, sizeof *row);
}
