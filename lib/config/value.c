/* value.c - from text to a typed, checked value in the user's struct.
 *
 * Every value of every option comes through kd__option_set, whether it was a default in a table, a
 * flag, YAML or JSON, so that a value means the same everywhere. The new value is built aside and
 * put in place only when it is whole and within range: a refused value leaves the old one.
 */
#include "config_private.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LIST_MAX 65536

bool kd__option_is_strings(const kd_option *o)
{
    return o->type == KD_OPTION_STRINGS || o->type == KD_OPTION_MAPS;
}

bool kd__option_is_list(const kd_option *o)
{
    return o->type == KD_OPTION_INTS || o->type == KD_OPTION_REALS || kd__option_is_strings(o);
}

bool kd__option_takes_nothing(const kd_option *o)
{
    const bool text = o->type == KD_OPTION_STRING || o->type == KD_OPTION_CHOICE;
    return (text && !o->value) || kd__option_is_list(o); // nobody looks for NULL where there is a default
}

const char *kd_option_flag(const kd_option *o, char *buf, size_t len)
{
    const char *name = o->flag;
    if (!name) {
        name = o->key ? o->key : "";
        const char *dot = strrchr(name, '.');
        name = dot ? dot + 1 : name;
    }
    snprintf(buf, len, "%s", name);
    for (char *p = buf; !o->flag && *p; p++)
        if (*p == '_') *p = '-';
    return buf;
}

/* A bound as a person writes it: 100000, not 1e+05. */
static const char *bound(double x, char buf[32])
{
    snprintf(buf, 32, x == floor(x) && fabs(x) < 1e7 ? "%.0f" : "%g", x);
    return buf;
}

static bool has_range(const kd_option *o) { return o->lo != 0 || o->hi != 0; }

const char *kd_option_expects(const kd_option *o, char *buf, size_t len)
{
    static const char *const what[] = {
        [KD_OPTION_BOOL] = "true or false",      [KD_OPTION_INT] = "a whole number",
        [KD_OPTION_REAL] = "a number",           [KD_OPTION_STRING] = "a text",
        [KD_OPTION_CHOICE] = "one of",           [KD_OPTION_INTS] = "a list of whole numbers",
        [KD_OPTION_REALS] = "a list of numbers", [KD_OPTION_STRINGS] = "a list of texts",
        [KD_OPTION_MAPS] = "a list of mappings",
    };
    char lo[32], hi[32];
    bool number = o->type == KD_OPTION_INT || o->type == KD_OPTION_REAL || o->type == KD_OPTION_INTS ||
                  o->type == KD_OPTION_REALS;
    if (o->type == KD_OPTION_CHOICE) {
        size_t n = (size_t)snprintf(buf, len, "one of ");
        for (const char *p = o->choices; *p && n + 3 < len; p++) {
            if (*p == '|')
                buf[n++] = ',', buf[n++] = ' ';
            else
                buf[n++] = *p;
        }
        buf[kd_min_size(n, len - 1)] = '\0';
    } else if (number && has_range(o)) {
        snprintf(buf, len, "%s from %s to %s", what[o->type], bound(o->lo, lo), bound(o->hi, hi));
    } else {
        snprintf(buf, len, "%s", what[o->type]);
    }
    return buf;
}

/* "NAME: 'text' WHY, expected ..." */
static kd_status refuse(const kd_option *o, const char *name, const char *text, const char *why, kd_err *err)
{
    char expects[512];
    return kd_fail(err, KD_EUSAGE, "%s: '%.80s' %s, expected %s", name, text, why,
                   kd_option_expects(o, expects, sizeof expects));
}

static kd_status no_memory(const char *name, kd_err *err)
{
    return kd_fail(err, KD_ENOMEM, "%s: out of memory", name);
}

/* Decimal numbers only: strtod alone would take hexadecimal, inf and nan. */
static bool parse_real(const char *s, double *out)
{
    char *end;
    if (!*s || strspn(s, "+-.0123456789eE") != strlen(s)) return false;
    *out = strtod(s, &end);
    return *end == '\0' && end != s && isfinite(*out);
}

/* Reads a whole number at the front of s; *end is behind it. Takes 1e6 and 2.0 if all of s is that. */
static bool parse_int(const char *s, int64_t *out, const char **end)
{
    char *e;
    double real;
    if (!isdigit((unsigned char)s[s[0] == '-' || s[0] == '+'])) return false;
    errno = 0;
    *out = strtoll(s, &e, 10);
    *end = e;
    if (errno == ERANGE) return false;
    if (*e != '.' && *e != 'e' && *e != 'E') return true;
    if (!parse_real(s, &real) || real != floor(real) || fabs(real) > 0x1p53) return false;
    *out = (int64_t)real;
    *end = s + strlen(s);
    return true;
}

static bool in_range(const kd_option *o, double x) { return !has_range(o) || (x >= o->lo && x <= o->hi); }

static bool parse_bool(const char *s, bool *out)
{
    static const char *const words[] = {"false", "true", "off", "on", "no", "yes"};
    for (size_t i = 0; i < KD_COUNT(words); i++)
        if (!strcasecmp(s, words[i])) {
            *out = i & 1;
            return true;
        }
    return false;
}

/* Room for one more element behind n: grows at powers of two. NULL: out of memory, v is as it was. */
static void *grow(void *v, size_t n, size_t size)
{
    return n & (n - 1) ? v : realloc(v, (n ? 2 * n : 1) * size);
}

/* One item of an INTS: "3" or "0-4". */
static kd_status add_ints(const kd_option *o, const char *name, const char *item, kd_ints *list, kd_err *err)
{
    int64_t from, to;
    const char *end, *last;
    if (!parse_int(item, &from, &end)) return refuse(o, name, item, "is no whole number", err);
    to = from;
    if (*end == '-' && (!parse_int(end + 1, &to, &last) || *last))
        return refuse(o, name, item, "is no range of whole numbers", err);
    if (*end && *end != '-') return refuse(o, name, item, "is no whole number", err);
    if (to < from) return refuse(o, name, item, "is a range that runs backwards", err);
    if (!in_range(o, (double)from) || !in_range(o, (double)to))
        return refuse(o, name, item, "is out of range", err);
    if ((uint64_t)to - (uint64_t)from >= LIST_MAX - list->n)
        return refuse(o, name, item, "makes more than 65536 values", err);
    for (int64_t i = from;; i++) {
        int64_t *v = grow(list->v, list->n, sizeof *v);
        if (!v) return no_memory(name, err);
        list->v = v;
        v[list->n++] = i;
        if (i == to) return KD_OK;
    }
}

static kd_status add_real(const kd_option *o, const char *name, const char *item, kd_reals *list, kd_err *err)
{
    double x;
    if (!parse_real(item, &x)) return refuse(o, name, item, "is no number", err);
    if (!in_range(o, x)) return refuse(o, name, item, "is out of range", err);
    if (list->n >= LIST_MAX) return refuse(o, name, item, "makes more than 65536 values", err);
    double *v = grow(list->v, list->n, sizeof *v);
    if (!v) return no_memory(name, err);
    list->v = v;
    v[list->n++] = x;
    return KD_OK;
}

/* Splits text at commas and adds each item to ints or reals, whichever is not NULL. */
static kd_status add_numbers(const kd_option *o, const char *name, const char *text, kd_ints *ints,
                             kd_reals *reals, kd_err *err)
{
    char *copy = kd_strdup(text);
    if (!copy) return no_memory(name, err);
    kd_status st = KD_OK;
    for (char *p = copy, *next; !st && p && *copy; p = next) {
        next = strchr(p, ',');
        if (next) *next++ = '\0';
        p += strspn(p, " ");
        for (size_t n = strlen(p); n && p[n - 1] == ' '; n--) p[n - 1] = '\0';
        st = ints ? add_ints(o, name, p, ints, err) : add_real(o, name, p, reals, err);
    }
    free(copy);
    return st;
}

static void free_strings(kd_strings *s)
{
    for (size_t i = 0; i < s->n; i++) free(s->v[i]);
    free(s->v);
    *s = (kd_strings){0};
}

static kd_status add_string(const char *name, const char *text, kd_strings *list, kd_err *err)
{
    if (list->n >= LIST_MAX) return kd_fail(err, KD_EUSAGE, "%s: more than %d values", name, LIST_MAX);
    char **v = grow(list->v, list->n, sizeof *v);
    if (!v) return no_memory(name, err);
    list->v = v;
    if (!(v[list->n] = kd_strdup(text))) return no_memory(name, err);
    list->n++;
    return KD_OK;
}

/* One item of STRINGS; of MAPS any number, "a=1;a=2". */
static kd_status add_texts(const kd_option *o, const char *name, const char *text, kd_strings *list,
                           kd_err *err)
{
    kd_status st = KD_OK;
    if (o->type != KD_OPTION_MAPS) return add_string(name, text, list, err);
    for (size_t n; *text && !st; text += n + (text[n] == ';')) {
        n = strcspn(text, ";");
        char *item = kd_sprintf("%.*s", (int)n, text);
        st = item ? add_string(name, item, list, err) : no_memory(name, err);
        free(item);
    }
    return st;
}

static kd_status set_list(const kd_option *o, void *field, const char *name, const char *const *text,
                          size_t n, bool append, size_t *bad, kd_err *err)
{
    kd_ints ints = {0};
    kd_reals reals = {0};
    kd_strings strings = {0}, *old = field;
    kd_status st = KD_OK;
    if (append && kd__option_is_strings(o))
        for (size_t i = 0; i < old->n && !st; i++) st = add_string(name, old->v[i], &strings, err);
    for (size_t i = 0; i < n && !st; i++) {
        *bad = i;
        if (kd__option_is_strings(o))
            st = add_texts(o, name, text[i], &strings, err);
        else
            st = add_numbers(o, name, text[i], o->type == KD_OPTION_INTS ? &ints : NULL, &reals, err);
    }
    if (st) {
        free(ints.v);
        free(reals.v);
        free_strings(&strings);
    } else if (kd__option_is_strings(o)) {
        free_strings(old);
        *old = strings;
    } else if (o->type == KD_OPTION_INTS) {
        free(((kd_ints *)field)->v);
        *(kd_ints *)field = ints;
    } else {
        free(((kd_reals *)field)->v);
        *(kd_reals *)field = reals;
    }
    return st;
}

/* Whether text is one of "a|b|c"; otherwise the nearest goes into the message. */
static kd_status check_choice(const kd_option *o, const char *name, const char *text, kd_err *err)
{
    char copy[512], why[160] = "is unknown";
    const char *names[64];
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", o->choices);
    for (char *p = copy, *next; p && n < KD_COUNT(names); p = next) {
        next = strchr(p, '|');
        if (next) *next++ = '\0';
        if (!strcmp(p, text)) return KD_OK;
        names[n++] = p;
    }
    const char *near = kd_nearest(text, names, n);
    if (near) snprintf(why, sizeof why, "is unknown (did you mean '%.60s'?)", near);
    return refuse(o, name, text, why, err);
}

static kd_status set_string(const kd_option *o, char **field, const char *name, const char *text, kd_err *err)
{
    kd_status st = KD_OK;
    if (text && o->type == KD_OPTION_CHOICE && (st = check_choice(o, name, text, err))) return st;
    char *copy = kd_strdup(text);
    if (text && !copy) return no_memory(name, err);
    free(*field);
    *field = copy;
    return st;
}

static kd_status set_number(const kd_option *o, void *field, const char *name, const char *text, kd_err *err)
{
    if (o->type == KD_OPTION_REAL) {
        double x;
        if (!parse_real(text, &x)) return refuse(o, name, text, "is no number", err);
        if (!in_range(o, x)) return refuse(o, name, text, "is out of range", err);
        *(double *)field = x;
        return KD_OK;
    }
    int64_t i;
    const char *end;
    if (!parse_int(text, &i, &end) || *end) return refuse(o, name, text, "is no whole number", err);
    if (!in_range(o, (double)i)) return refuse(o, name, text, "is out of range", err);
    *(int64_t *)field = i;
    return KD_OK;
}

kd_status kd__option_set(const kd_option *o, void *target, const char *name, const char *const *text,
                         size_t n, bool append, size_t *bad, kd_err *err)
{
    void *field = (char *)target + o->offset;
    bool b;
    *bad = 0;
    if (kd__option_is_list(o)) return set_list(o, field, name, text, n, append, bad, err);
    if (n == 0 && !kd__option_takes_nothing(o)) {
        char expects[512];
        return kd_fail(err, KD_EUSAGE, "%s: no value, expected %s", name,
                       kd_option_expects(o, expects, sizeof expects));
    }
    switch (o->type) {
    case KD_OPTION_BOOL:
        if (!parse_bool(text[0], &b)) return refuse(o, name, text[0], "is no truth value", err);
        *(bool *)field = b;
        return KD_OK;
    case KD_OPTION_STRING:
    case KD_OPTION_CHOICE: return set_string(o, field, name, n ? text[0] : NULL, err);
    default: return set_number(o, field, name, text[0], err);
    }
}

void kd__option_clear(const kd_option *o, void *target)
{
    void *field = (char *)target + o->offset;
    switch (o->type) {
    case KD_OPTION_BOOL: *(bool *)field = false; break;
    case KD_OPTION_INT: *(int64_t *)field = 0; break;
    case KD_OPTION_REAL: *(double *)field = 0; break;
    case KD_OPTION_STRING:
    case KD_OPTION_CHOICE:
        free(*(char **)field);
        *(char **)field = NULL;
        break;
    case KD_OPTION_INTS:
        free(((kd_ints *)field)->v);
        *(kd_ints *)field = (kd_ints){0};
        break;
    case KD_OPTION_REALS:
        free(((kd_reals *)field)->v);
        *(kd_reals *)field = (kd_reals){0};
        break;
    case KD_OPTION_STRINGS:
    case KD_OPTION_MAPS: free_strings(field); break;
    }
}
